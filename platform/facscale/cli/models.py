"""Commands about trained detectors: `export` and `serve`."""

from __future__ import annotations

from pathlib import Path

import click

from facscale.cli.arguments import Command, PositiveNumber, filter_ray_output
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
