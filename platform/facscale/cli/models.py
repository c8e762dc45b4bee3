"""Commands about trained detectors: `export` and `serve`."""

from __future__ import annotations

from pathlib import Path

import click

from facscale.cli.arguments import Command
from facscale.cli.completion import complete_file

MODEL = click.argument("model", shell_complete=complete_file)
TRACKER = click.option("--tracker", default="", metavar="URI", help="MLflow server; else MLFLOW_TRACKING_URI.")


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
