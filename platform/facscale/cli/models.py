"""Commands about trained detectors: `predict`, `export` and `serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from facscale.cli.arguments import Command, OutputFile, PositiveNumber, Rule, filter_ray_output
from facscale.cli.completion import complete_file

MODEL = click.argument("model", shell_complete=complete_file)
TRACKER = click.option("--tracker", default="", metavar="URI", help="MLflow server; else MLFLOW_TRACKING_URI.")
PREDICT_RULES = (
    Rule(
        "--camera", excludes=("INPUT", "--every", "--workers", "--overlay", "--page"), why="a camera is the only input"
    ),
)


@click.command(cls=Command, rules=PREDICT_RULES)
@MODEL
@click.argument("inputs", nargs=-1, metavar="[INPUT]...", shell_complete=complete_file)
@click.option(
    "--out", default="predictions", show_default=True, metavar="FOLDER", help="Where the tables go; or one FILE.csv."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Format of the tables.",
)
@click.option(
    "--columns",
    type=click.Choice(["facscale", "py-feat", "openface", "pyafar"]),
    default="facscale",
    show_default=True,
    help="Whose names the columns have.",
)
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N", help="Read each Nth frame of videos.")
@click.option(
    "--overlay", type=OutputFile(suffix=".mp4"), metavar="FILE.mp4", help="Draw faces and AUs on the only video."
)
@click.option(
    "--page", type=OutputFile(suffix=".html"), metavar="FILE.html", help="Show the only video or image with its AUs."
)
@click.option("--camera", metavar="NUMBER", help="Show the AUs of a camera in the terminal, the first is 0.")
@TRACKER
@click.option("--device", default="", metavar="NAME", help="cuda, cpu, ...; else a GPU where there is one.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Spread the inputs over N processes of a Ray cluster; without it, over one that RAY_ADDRESS names.",
)
@filter_ray_output
def predict_command(
    *,
    model: str,
    inputs: tuple[str, ...],
    out: str,
    kind: str,
    columns: Any,
    every: int,
    overlay: Path | None,
    page: Path | None,
    camera: str | None,
    tracker: str,
    device: str,
    workers: int | None,
) -> None:
    """Detect action units in videos and images.

    \b
        facscale predict detector.safetensors talk.mp4 --page talk.html
        facscale predict models:/facscale-BP4D-clp@latest interviews/ --format parquet
        facscale predict models:/facscale-BP4D-clp@best-BP4D 's3://bucket/*.mp4' --out s3://bucket/aus
        facscale predict detector.safetensors --camera 0

    MODEL is a detector that a job has left: a file, a folder, a run's ID, or a registered model. An INPUT is a video, an
    image, a folder, a pattern, or a data set of shards; all may be s3://bucket/...

    Each video gets a table with a row for each face of each frame, and a summary. All images share one table. Faces are
    detected and cropped as those were from which the MODEL has learned. What is there already is not computed again.
    Exit status 1: an input could not be read.
    """
    from facscale.cli.predict import predict_camera, predict_inputs
    from facscale.errors import UserError

    if camera is not None:
        is_table = Path(out).suffix.lower() in {".csv", ".parquet"}
        if not is_table and out != "predictions":
            raise UserError(f"--out {out}: a camera has one table; name a file, such as {out}.csv")
        table = Path(out) if is_table else None
        sys.exit(predict_camera(model, camera, out=table, columns=columns, tracker=tracker, device=device))
    if not inputs:
        raise UserError("there is no INPUT: name a video, an image, a folder or a data set, or add --camera 0")
    sys.exit(
        predict_inputs(
            model,
            inputs,
            out=out,
            kind=kind,
            columns=columns,
            every=every,
            tracker=tracker,
            device=device,
            workers=workers or 0,
            overlay=overlay,
            page=page,
        )
    )


@click.command(cls=Command)
@MODEL
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["onnx", "safetensors", "hf", "pt2"]),
    help="The format: ONNX, facscale's own file, a Hugging Face folder, or a program of torch.export.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file or folder to write; by default in this folder, named after the detector.",
)
@TRACKER
def export_command(model: str, *, target: str, output: Path | None, tracker: str) -> None:
    """Write a detector in the format of other programs.

    \b
        facscale export models:/facscale-bp4d-clp@best --to onnx
        facscale export detector.safetensors --to hf --output clp-bp4d

    MODEL is the detector.safetensors of a run, a folder that holds one, a run's id, or models:/NAME@ALIAS.

    onnx and pt2 hold the preprocessing: they take aligned face crops and give calibrated probabilities, for batches of
    any size; thresholds are in their metadata. Both are compared with torch before they are written. hf is a folder with
    a model card; nothing is uploaded. Needs: pip install 'facscale[export]'.
    """
    from facscale.cli.export import export_detector

    export_detector(model, target=target, output=output, tracker=tracker)


@click.command(cls=Command)
@MODEL
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option(
    "--max-mb", type=PositiveNumber(), default=100.0, show_default=True, metavar="MB", help="The largest upload."
)
@click.option(
    "--max-seconds", type=PositiveNumber(), default=120.0, show_default=True, metavar="S", help="The longest clip."
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that decode and find faces: at most N, one where there is little to do.",
)
@click.option("--gpus", type=click.FloatRange(min=0), default=0.0, show_default=True, help="GPUs for the networks.")
@TRACKER
@filter_ray_output
def serve_command(
    *, model: str, host: str, port: int, max_mb: float, max_seconds: float, replicas: int, gpus: float, tracker: str
) -> None:
    """Serve a detector over HTTP, with a page for photos and clips.

    \b
        facscale serve models:/facscale-bp4d-clp@best
        curl -H "Authorization: Bearer $TOKEN" --data-binary @talk.mp4 http://127.0.0.1:8000/v1/predict

    MODEL is the detector.safetensors of a run, a folder that holds one, a run's id, or models:/NAME@ALIAS. The service
    runs on Ray Serve, on this machine or on the cluster that RAY_ADDRESS names, until Ctrl-C.

    Clients send the token that FACSCALE_SERVE_TOKEN holds; without one, it is made and printed. Uploads are deleted as
    soon as they have been read. Needs: pip install 'facscale[serve]'.
    """
    from facscale.cli.serve import serve_detector

    serve_detector(
        model,
        host=host,
        port=port,
        tracker=tracker,
        max_megabytes=max_mb,
        max_seconds=max_seconds,
        fronts=replicas,
        gpus=gpus,
    )
