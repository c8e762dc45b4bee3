"""`facscale predict` beside decoding and face detection alone, and its memory by the length of a video.

    python tests/benchmarks/predict.py VIDEO... [--rounds 5] [--size 224 --depth 34 --width 64] [--out FILE]
    python tests/benchmarks/predict.py VIDEO --minutes 1 10 60 --every 12 [--out FILE]

The detector of AUs is untrained, which costs the same: CLP's encoder with a probe, as in jobs/demo.yaml unless it is said.
Each round decodes, detects and follows the faces of the videos without networks, then predicts them into a CSV file; the
ratio is that of the frames a second by the clock, round by round, and of processor time. `--minutes` joins a video to itself,
without encoding it again, and predicts each length in a process of its own, whose peak memory is told.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import torch
from results import ResultWriter, add_out_option

from facscale.inference import export
from facscale.inference.batch import Options, Worker, plan_tasks
from facscale.inference.detector import Detector, Preprocessing, ProbedMember, save_detector
from facscale.inference.face_tracks import FaceSetTracker
from facscale.inference.inputs import list_inputs, open_video
from facscale.ingest import detectors
from facscale.methods import DataFacts, find_method
from facscale.nn.heads import LinearProbe
from facscale.spec.pipelines import Crop, DetectorBlock

AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)  # BP4D's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="pixels that the network sees")
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--detector", default=DetectorBlock().name, help="of faces")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--minutes", nargs="+", type=float, help="lengths whose memory is measured, instead of speed")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # one prediction in this process
    add_out_option(parser)
    options = parser.parse_args()
    if options.one:
        predict(make_model(options), options.videos, every=options.every)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif options.minutes:
        measure_memory(options)
    else:
        measure_speed(options)


def make_model(options: argparse.Namespace) -> bytes:
    """Build an untrained detector with one encoder and one probe."""
    config = find_method("clp").Config.model_validate({"depth": options.depth, "width": options.width})
    method = export.build_method("clp", config, DataFacts(image_size=options.size)).eval()
    preprocessing = Preprocessing(
        detector=DetectorBlock(name=options.detector), crop=Crop(size=options.size * 3 // 2), image_size=options.size
    )
    member = ProbedMember(method, [LinearProbe(dim=method.encoder.dim, aus=len(AUS))], [])
    return save_detector(
        Detector([member], aus=AUS, preprocessing=preprocessing, thresholds=torch.full((len(AUS),), 0.5))
    )


def predict(model: bytes, videos: Sequence[Path], *, every: int) -> int:
    """Predict videos into CSV files that are thrown away; the number of rows."""
    with tempfile.TemporaryDirectory() as out:
        worker = Worker(model, Options(out, every=every, device="cpu"))
        outcomes = [worker.run(task) for task in plan_tasks(list_inputs([str(video) for video in videos])[0])]
    assert not any(outcome.error for outcome in outcomes), outcomes
    return sum(outcome.rows for outcome in outcomes)


def find_faces(videos: Sequence[Path], *, name: str, every: int) -> int:
    """Decode videos, detect and follow their faces; the number of frames."""
    kind = detectors.find(name)
    config = kind.Config()
    face_detector = kind(config)
    count = 0
    for item in list_inputs([str(video) for video in videos])[0]:
        frames, facts = open_video(item, every=every, note=lambda _stage, _reason: None)
        tracker = FaceSetTracker(face_detector, config=config, step=every, interval_s=every / facts.fps)
        count += sum(1 for _ in tracker.track(frames))
    return count


def measure_speed(options: argparse.Namespace) -> None:
    """Print frames a second of both, and their ratio, round by round."""
    model = make_model(options)
    frames = find_faces(options.videos, name=options.detector, every=options.every)
    predict(model, options.videos, every=options.every)
    columns = {"what": None, "frames/s": 1, "ratio by the clock": 2, "ratio by processor time": 2}
    ratios: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    for number in range(options.rounds):
        base = clock(lambda: find_faces(options.videos, name=options.detector, every=options.every))
        whole = clock(lambda: predict(model, options.videos, every=options.every))
        ratios.append((base[0] / whole[0], base[1] / whole[1]))
        rates.append((frames / base[0], frames / whole[0]))
        print(
            f"round {number}: {rates[-1][0]:.1f} and {rates[-1][1]:.1f} frames/s, {ratios[-1][0]:.2f} by the clock",
            flush=True,
        )
    with ResultWriter(
        options.out, title="`facscale predict` beside decoding and detection alone", columns=columns
    ) as table:
        for name, which in (("decoding and detection alone", 0), ("facscale predict", 1)):
            rate = statistics.median(pair[which] for pair in rates)
            mean = [statistics.median(pair[n] for pair in ratios) if which else None for n in range(2)]
            table.add(name, rate, *mean)
        table.note(f"{frames} frames of {len(options.videos)} videos; medians of {options.rounds} rounds.")
    print(
        f"medians: {statistics.median(a for a, _ in ratios):.2f} by the clock, {statistics.median(b for _, b in ratios):.2f} by processor time"
    )


def clock(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor that a call takes."""
    began, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - spent


def measure_memory(options: argparse.Namespace) -> None:
    """Print the peak memory of predicting videos of several lengths."""
    columns = {"minutes": None, "frames predicted": 0, "peak memory, MB": 0, "seconds": 0}
    own = [f"--{name}={getattr(options, name)}" for name in ("size", "depth", "width", "detector", "every")]
    with (
        tempfile.TemporaryDirectory() as folder,
        ResultWriter(
            options.out, title="Peak memory of `facscale predict` by the length of a video", columns=columns
        ) as table,
    ):
        for minutes in options.minutes:
            path = Path(folder) / f"{minutes:g}.mp4"
            frames, size = repeat_video(options.videos[0], path, seconds=60 * minutes)
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, __file__, str(path), "--one", *own], check=True, capture_output=True, text=True
            )
            row = (minutes, -(-frames // options.every), float(done.stdout.split()[-1]), time.perf_counter() - began)
            path.unlink()
            table.add(*row)
            print(
                f"{minutes:g} min of {size}: {row[1]:,} frames predicted, {row[2]:,.0f} MB, {row[3]:.0f} s", flush=True
            )
        table.note(
            f"Videos of {size}, every {options.every}. frame of which is predicted."
            if options.every > 1
            else f"Videos of {size}."
        )


def repeat_video(source: Path, target: Path, *, seconds: float) -> tuple[int, str]:
    """Join a video to itself, without encoding it again, until it is so long; its number of frames, and "1280 x 720"."""
    count = 0
    with av.open(str(source)) as film:
        stream = film.streams.video[0]
        packets = [packet for packet in film.demux(stream) if packet.dts is not None]
        begin = min(packet.dts for packet in packets)
        length = max(packet.pts + (packet.duration or 0) for packet in packets) - begin
        stamps = [(packet.pts - begin, packet.dts - begin) for packet in packets]
        with av.open(str(target), "w") as copy:
            out = copy.add_stream_from_template(stream)
            for turn in range(max(1, round(seconds / float(length * stream.time_base)))):
                for packet, (pts, dts) in zip(packets, stamps, strict=True):
                    packet.stream, packet.time_base = out, stream.time_base
                    packet.pts, packet.dts = pts + turn * length, dts + turn * length
                    copy.mux(packet)
                    count += 1
        return count, f"{stream.width} x {stream.height}"


if __name__ == "__main__":
    main()
