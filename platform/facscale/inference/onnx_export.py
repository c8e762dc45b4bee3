"""Detectors as graphs for other programs: ONNX files, and programs of `torch.export`.

Both hold the preprocessing, so that they take the stored face crops as they are (uint8), and give calibrated
probabilities. The batch may have any size. What a face is, how it is aligned and from which probability on an AU is
present stand in the metadata of the file.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facscale import __version__
from facscale.data import augment
from facscale.data.views import Batch, Faces
from facscale.errors import UserError
from facscale.inference.detector import Detector

TOLERANCE = 1e-4  # between the probabilities of torch and those of another program
EXAMPLES = (1, 3)  # sizes of the batches with which an export is compared
MAX_REASON = 300  # characters of another library's message in ours
INSTALL = "pip install 'facscale[export]'"


class ExportError(UserError):
    """A detector cannot be converted, or what was converted gives other numbers."""


class DetectorGraph(nn.Module):
    """A detector as a function of tensors alone, as a traced graph needs it.

    faces: [N, 3, S, S] uint8, S = preprocessing.crop.stored_size; [N, F, 3, S, S] for detectors that read F frames of a
    face, the frame itself in the middle. landmarks: [N, 68, 2] float32 ([N, F, 68, 2]) in pixels of the crop, for
    detectors that read them; nan where unknown. Returns probabilities [N, n], and intensities [N, m] where there are any.
    """

    def __init__(self, detector: Detector) -> None:
        """Raises ExportError for a detector whose samples a graph cannot take."""
        super().__init__()
        if len(detector.views) != 1:
            raise ExportError(
                f"it reads {len(detector.views)} kinds of samples ({', '.join(detector.views)}) for each frame; only "
                "detectors that read one can be converted. facscale itself runs it: facscale predict, facscale serve"
            )
        ((self.view_name, self.view),) = detector.views.items()
        self.detector, self.frames = detector, self.view.count
        self.stored, self.size = detector.preprocessing.crop.stored_size, detector.preprocessing.image_size
        self.has_intensities = bool(detector.intensity_aus)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return ["faces", "landmarks"] if self.detector.needs_landmarks else ["faces"]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return ["probabilities", "intensities"] if self.has_intensities else ["probabilities"]

    def make_inputs(self, *, count: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Make random inputs for `count` samples."""
        random = torch.Generator().manual_seed(seed)
        frames = (count,) if self.frames == 1 else (count, self.frames)
        faces = torch.randint(0, 256, (*frames, 3, self.stored, self.stored), generator=random, dtype=torch.uint8)
        if not self.detector.needs_landmarks:
            return (faces,)
        return faces, torch.rand((*frames, 68, 2), generator=random) * self.stored

    def forward(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, ...]:
        """Estimate the AUs of N samples."""
        frames = faces if self.frames > 1 else faces[:, None]
        columns, points, alignment = {}, None, None
        if landmarks is not None:
            points = landmarks if self.frames > 1 else landmarks[:, None]
            if self.view.is_aligned:
                alignment = augment.fit_alignment(points.flatten(-2), stored=self.stored)
            columns["landmarks"] = self._move_points(points, alignment)[:, :, None]
        images = self._crop(frames, alignment)[:, :, None]
        sample = Faces(
            images=images,
            identity=torch.zeros_like(images[:, 0, 0, 0, 0, 0], dtype=torch.int64),
            augmentation=torch.zeros_like(images[:, :, :, 0, 0, :1]),
            columns=columns,
        )
        estimate = self.detector.estimate(Batch({self.view_name: sample}))
        if estimate.intensity is None:
            return (estimate.probability,)
        return estimate.probability, estimate.intensity

    def _crop(self, frames: Tensor, alignment: Tensor | None) -> Tensor:
        """Crop frames [N, F, 3, S, S] as in evaluation: [N, F, 3, s, s] in [0, 1]."""
        crop, flat = self.detector.crop, frames.flatten(0, 1)
        if alignment is None:
            return crop(flat).unflatten(0, (-1, self.frames))
        matrices = alignment.flatten(0, 1)[:, None]  # [NF, 1, 2, 3]: from the middle frame to each
        grid = (matrices[..., :2] @ crop.grid.flatten(1, 2)[..., None]).squeeze(-1) + matrices[..., 2]
        grid = grid.unflatten(1, (self.size, self.size))
        sampled = functional.grid_sample(crop.reduce(flat), grid, padding_mode="reflection", align_corners=False)
        return sampled.clamp(0, 1).unflatten(0, (-1, self.frames))

    def _move_points(self, points: Tensor, alignment: Tensor | None) -> Tensor:
        """Map points [N, F, 68, 2] in pixels of the stored crop to pixels of the input, as `augment.transform_landmarks`."""
        moved = (2 * points + 1) / self.stored - 1
        if alignment is not None:  # backwards, by the inverse of a matrix of two rows
            (a, b), (c, d) = (row.unbind(-1) for row in alignment[..., :2].unbind(-2))
            x, y = (moved - alignment[..., None, :, 2]).unbind(-1)
            determinant = (a * d - b * c)[..., None]
            rows = (d[..., None] * x - b[..., None] * y, a[..., None] * y - c[..., None] * x)
            moved = torch.stack(rows, -1) / determinant[..., None]
        return ((moved / self.detector.preprocessing.share + 1) * self.size - 1) / 2


def export_onnx(detector: Detector) -> bytes:
    """Convert a detector to an ONNX file, and compare it with torch by onnxruntime.

    Raises ExportError for a detector that cannot be converted, or whose probabilities would differ by more than 1e-4.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"ONNX needs the package {error.name}; install it: {INSTALL}") from None
    graph = DetectorGraph(detector).eval()
    program = _convert(
        "ONNX",
        lambda inputs: torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            dynamic_shapes=_list_dynamic_shapes(inputs),
            input_names=graph.input_names,
            output_names=graph.output_names,
            verbose=False,
        ),
        graph.make_inputs(count=3),
    )
    model = program.model_proto
    onnx.helper.set_model_props(model, describe_detector(detector))
    model.producer_name, model.producer_version = "facscale", __version__
    model.doc_string = "Calibrated probabilities of facial action units, from aligned face crops"
    try:
        data: bytes = model.SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - of protobuf beyond 2 GB, or of a graph that onnxruntime refuses
        raise ExportError(f"the ONNX file cannot be used: {_shorten(error)}") from None

    def run(inputs: Sequence[Tensor]) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = session.run(
            None, {name: value.numpy() for name, value in zip(graph.input_names, inputs, strict=True)}
        )
        return outputs

    _check_parity(graph, run, kind="ONNX")
    return data


def export_program(detector: Detector) -> bytes:
    """Convert a detector to a file of `torch.export` (.pt2), and compare it with the detector.

    Its metadata is the extra file facscale.json. Raises ExportError as `export_onnx`.
    """
    graph = DetectorGraph(detector).eval()
    program = _convert(
        "torch.export",
        lambda inputs: torch.export.export(graph, inputs, dynamic_shapes=_list_dynamic_shapes(inputs)),
        graph.make_inputs(count=3),
    )
    _check_parity(graph, lambda inputs: [output.numpy() for output in program.module()(*inputs)], kind="torch.export")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files={"facscale.json": json.dumps(describe_detector(detector))})
    return file.getvalue()


def describe_detector(detector: Detector) -> dict[str, str]:
    """Describe a detector for the metadata of a file: every value is text, lists and objects are JSON."""
    crop = detector.preprocessing.crop
    return {
        "facscale": __version__,
        "aus": json.dumps([f"AU{au:02d}" for au in detector.aus]),
        "thresholds": json.dumps([round(value, 7) for value in detector.thresholds.tolist()]),
        "intensity_aus": json.dumps([f"AU{au:02d}" for au in detector.intensity_aus]),
        "input": f"uint8 RGB crops of {crop.stored_size} x {crop.stored_size} pixels, aligned as `preprocessing` says",
        "preprocessing": json.dumps(detector.preprocessing.model_dump(mode="json")),
        "card": json.dumps(detector.card),
    }


def _list_dynamic_shapes(inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


def _convert(kind: str, convert: Callable[[tuple[Tensor, ...]], Any], inputs: tuple[Tensor, ...]) -> Any:
    """Call a converter of torch. Raises ExportError with its reason."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about torch's own code
            return convert(inputs)
    except ImportError as error:
        raise ExportError(f"{kind} needs the package {error.name}; install it: {INSTALL}") from None
    except Exception as error:  # noqa: BLE001 - a method can use any operator
        raise ExportError(
            f"its network cannot be converted to {kind}: {_shorten(error.__cause__ or error)}. facscale itself runs it: "
            "facscale predict, facscale serve"
        ) from None


@torch.no_grad()
def _check_parity(graph: DetectorGraph, run: Callable[[Sequence[Tensor]], Sequence[np.ndarray]], *, kind: str) -> None:
    """Compare a converted detector with the detector on random faces. Raises ExportError where they differ."""
    for count in EXAMPLES:
        inputs = graph.make_inputs(count=count, seed=count)
        for name, expected, actual in zip(graph.output_names, graph(*inputs), run(inputs), strict=True):
            difference = float(np.abs(expected.numpy() - actual).max())
            if not difference <= TOLERANCE:  # nan too
                raise ExportError(
                    f"{kind} gives {name} that differ from torch's by {difference:.2g}, more than {TOLERANCE:g}; nothing is "
                    "written. Please report this with the method's name"
                )


def _shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
