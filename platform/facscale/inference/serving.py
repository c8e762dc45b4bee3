"""A detector behind HTTP, on Ray Serve: a photo or a clip goes in, AUs come out.

Two deployments, which scale apart: `Front` receives uploads, decodes them, and finds and crops faces (CPU); `Networks`
runs the detector on faces from all fronts together, in batches (GPU). An upload lies in a temporary folder while it is
read, and is deleted with it; nothing of it is logged. Every request needs the token, except those for the page itself
and for the state of the service.

GET  /            the page on which a file is dropped
GET  /health      whether this replica answers
GET  /v1/model    the AUs, thresholds and limits
POST /v1/predict  the file as the body; `?every=2` reads every second frame; `Accept: text/csv` gives a table

Ray Serve copies `Front` as soon as it is defined: functions that it calls stand before it, and annotations are evaluated
(no `from __future__ import annotations`).
"""

import asyncio
import hashlib
import hmac
import io
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow.csv
import torch
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Histogram

from facscale import __version__
from facscale.data.augment import Augmenter
from facscale.data.views import Batch, Faces
from facscale.errors import UserError
from facscale.inference.api import AUDetector
from facscale.inference.detector import Detector, Estimate, load_detector_bytes
from facscale.inference.inputs import InputError, list_inputs
from facscale.inference.predictor import FrameResult, Predictor
from facscale.inference.sources import read_detector
from facscale.inference.tables import SummaryMeter, build_table
from facscale.inference.viewer import build_upload_page, describe_frame
from facscale.spec import Block

TOKEN_VARIABLE = "FACSCALE_SERVE_TOKEN"  # noqa: S105 - its name
MIN_TOKEN = 16  # characters
FACES_PER_BATCH = 128  # that pass the networks together
WAIT_S = 0.02  # for more faces, before a batch that is not full
MEGABYTE = 1_000_000
NO_CONTENT_SNIFFING = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:; media-src blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
}

# FastAPI's own pages load scripts from elsewhere.
api = FastAPI(title="facscale", version=__version__, docs_url=None, redoc_url=None)
bearer = HTTPBearer(auto_error=False)


class ServingError(UserError):
    """A service cannot be started as it is asked for."""


class Serving(Block):
    """How a detector is served. `build_app` takes these as arguments, also from a RayService."""

    model: str  # as for `facscale predict`
    tracker: str = ""
    max_megabytes: PositiveFloat = 100.0  # of an upload
    max_seconds: PositiveFloat = 120.0  # of a clip
    fronts: PositiveInt = 1  # replicas of `Front`: the fewest, and
    max_fronts: PositiveInt = 1  # the most
    networks: PositiveInt = 1
    max_networks: PositiveInt = 1
    front_cpus: PositiveFloat = 1.0  # of each replica
    network_cpus: NonNegativeFloat = 1.0
    network_gpus: NonNegativeFloat = 0.0
    waiting: Annotated[int, Field(ge=1, le=1000)] = 16  # requests that a front holds; more are answered with 503


def build_app(settings: Serving | Mapping[str, Any]) -> serve.Application:
    """Build the application that `serve.run` and a RayService deploy.

    settings: also as the plain values of a RayService's `args`. The token is read from FACSCALE_SERVE_TOKEN; only its
    hash is handed on. Raises ServingError without a token of at least 16 characters, and DetectorError.
    """
    serving = Serving.model_validate(settings)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < MIN_TOKEN:
        raise ServingError(
            f"{TOKEN_VARIABLE} has to hold the token that clients send, of at least {MIN_TOKEN} characters: python -c 'import "
            "secrets; print(secrets.token_urlsafe())' makes one"
        )
    for few, many in (("fronts", "max_fronts"), ("networks", "max_networks")):
        if getattr(serving, few) > getattr(serving, many):
            raise ServingError(f"{many}={getattr(serving, many)} is less than {few}={getattr(serving, few)}")
    data = read_detector(serving.model, tracker=serving.tracker)
    detector = load_detector_bytes(data, source=serving.model)
    if not detector.preprocessing.is_known:
        raise ServingError(
            f"{serving.model} has learned from crops of which nobody recorded how they were made, so that uploads cannot be "
            "cropped in the same way"
        )
    digest = hashlib.sha256(data).hexdigest()
    networks = Networks.options(  # type: ignore[attr-defined]
        autoscaling_config=_autoscale(serving.networks, serving.max_networks, ongoing=4),
        ray_actor_options={"num_cpus": serving.network_cpus, "num_gpus": serving.network_gpus},
    ).bind(serving, digest)
    return Front.options(  # type: ignore[attr-defined]
        max_ongoing_requests=serving.waiting,
        max_queued_requests=serving.waiting,
        autoscaling_config=_autoscale(serving.fronts, serving.max_fronts, ongoing=2),
        ray_actor_options={"num_cpus": serving.front_cpus},
    ).bind(serving, digest, hashlib.sha256(token.encode()).hexdigest(), networks)


def _autoscale(few: int, many: int, *, ongoing: int) -> dict[str, Any]:
    return {"min_replicas": few, "max_replicas": many, "target_ongoing_requests": ongoing}


def load_served_detector(serving: Serving, digest: str) -> Detector:
    """Load the detector in a replica. Raises ServingError where its name means another one than when it was deployed."""
    data = read_detector(serving.model, tracker=serving.tracker)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ServingError(f"{serving.model} is another detector than when it was deployed; deploy it again")
    return load_detector_bytes(data, source=serving.model)


def count_faces(batches: list[Batch]) -> int:
    """Count the faces of batches, for Ray Serve's limit."""
    return sum(len(next(iter(batch.values())).images) for batch in batches)


@serve.deployment(name="Networks", max_ongoing_requests=64, health_check_timeout_s=60)
class Networks:
    """The networks of a detector."""

    def __init__(self, serving: Serving, digest: str) -> None:
        self.device = torch.device("cuda" if serving.network_gpus and torch.cuda.is_available() else "cpu")
        self.detector = load_served_detector(serving, digest).to(self.device)
        self.prepare = Augmenter(size=self.detector.preprocessing.image_size)
        self.batch_size = Histogram(
            "facscale_serve_batch_faces", "Faces that passed the networks together", boundaries=[1, 4, 16, 64, 128]
        )

    @serve.batch(max_batch_size=FACES_PER_BATCH, batch_wait_timeout_s=WAIT_S, batch_size_fn=count_faces)
    async def estimate(self, batches: list[Batch]) -> list[Estimate]:
        """Estimate the AUs of samples of several requests."""
        return await asyncio.to_thread(self._estimate, batches)

    @torch.no_grad()
    def _estimate(self, batches: list[Batch]) -> list[Estimate]:
        sizes = [count_faces([batch]) for batch in batches]
        self.batch_size.observe(sum(sizes))
        estimate = self.detector.estimate(self.prepare(concatenate_batches(batches).to(self.device)))
        probabilities = estimate.probability.float().cpu().split(sizes)
        if estimate.intensity is None:
            return [Estimate(probability, None) for probability in probabilities]
        intensities = estimate.intensity.float().cpu().split(sizes)
        return [Estimate(*pair) for pair in zip(probabilities, intensities, strict=True)]


def concatenate_batches(batches: list[Batch]) -> Batch:
    """Join the samples of batches that have the same views."""
    joined = Batch()
    for name, first in batches[0].items():
        parts = [batch[name] for batch in batches]
        joined[name] = Faces(
            images=torch.cat([part.images for part in parts]),
            identity=torch.cat([part.identity for part in parts]),
            augmentation=torch.cat([part.augmentation for part in parts]),
            columns={key: torch.cat([part.columns[key] for part in parts]) for key in first.columns},
            is_aligned=first.is_aligned,
        )
    return joined


class RemotePredictor(Predictor):
    """A predictor whose networks are the deployment `Networks`."""

    def __init__(self, detector: Detector, networks: DeploymentHandle) -> None:
        super().__init__(detector, device="cpu")
        self._networks = networks

    def apply_networks(self, batch: Batch) -> Estimate:
        """Send a batch to the networks, and wait for their answer; not in an event loop."""
        estimate: Estimate = self._networks.estimate.remote(batch).result()
        return estimate


def get_client(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> HTTPAuthorizationCredentials | None:
    """Pass on what a client sends as its token; `Front` compares it."""
    del request
    return credentials


Token = Annotated[HTTPAuthorizationCredentials | None, Depends(get_client)]


async def receive_upload(chunks: AsyncIterator[bytes], path: Path, *, limit: int) -> None:
    """Write the body of a request to a file. Raises HTTPException for one of more than `limit` bytes, or of none."""
    size = 0
    with path.open("xb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise HTTPException(413, f"the file is larger than the {limit / MEGABYTE:g} MB that this service reads")
            file.write(chunk)
    if not size:
        raise HTTPException(422, "the request has no body: send the photo or the clip itself, curl --data-binary @FILE")


def hide_path(text: str, folder: str) -> str:
    """Replace the place of a temporary file in a message."""
    return text.replace(f"{folder}/upload", "the upload").replace(folder, "")


@serve.deployment(name="Front", health_check_timeout_s=60)
@serve.ingress(api)
class Front:
    """Receives uploads, finds the faces, and answers."""

    def __init__(self, serving: Serving, digest: str, token_hash: str, networks: DeploymentHandle) -> None:
        self.serving, self.digest, self.token_hash = serving, digest, token_hash
        detector = load_served_detector(serving, digest)
        self.reader = AUDetector(detector, device="cpu")
        self.reader.predictor = RemotePredictor(detector, networks)
        self.page = build_upload_page()
        self.turn = asyncio.Lock()  # the detector of faces reads one file at a time
        self.requests = Counter("facscale_serve_requests", "Answers to uploads", tag_keys=("outcome",))
        self.frames = Counter("facscale_serve_frames", "Frames that were read")
        self.faces = Counter("facscale_serve_faces", "Faces of which AUs were estimated")
        self.seconds = Histogram(
            "facscale_serve_seconds", "Time from an upload to its answer", boundaries=[0.1, 0.3, 1, 3, 10, 30, 100]
        )

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page(self) -> HTMLResponse:
        """The page."""
        return HTMLResponse(self.page, headers=NO_CONTENT_SNIFFING)

    @api.get("/health")
    async def report_health(self) -> dict[str, str]:
        """Whether this replica answers."""
        return {"status": "ok"}

    @api.get("/v1/model")
    async def describe_model(self, token: Token) -> dict[str, Any]:
        """The detector: AUs, thresholds, what it has learned from, and the limits of this service."""
        self.check_token(token)
        return self._describe() | {
            "card": {key: value for key, value in self.reader.card.items() if key != "people"},
            "sha256": self.digest,
            "limits": {"megabytes": self.serving.max_megabytes, "seconds": self.serving.max_seconds},
            "version": __version__,
        }

    @api.post(
        "/v1/predict",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
        responses={
            200: {"content": {"text/csv": {}}, "description": "AUs of each face of each frame"},
            401: {"description": "no token, or a wrong one"},
            413: {"description": "larger or longer than this service reads"},
            422: {"description": "not a photo or a video that can be read"},
            503: {"description": "too many requests wait"},
        },
    )
    async def predict(
        self, request: Request, token: Token, every: Annotated[int, Query(ge=1, le=1000)] = 1
    ) -> Response:
        """Read AUs from a photo (JPEG, PNG) or a video clip, which is the body of the request."""
        self.check_token(token)
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="facscale-") as folder:
                path = Path(folder) / "upload"
                await receive_upload(request.stream(), path, limit=round(self.serving.max_megabytes * MEGABYTE))
                async with self.turn:
                    answer = await asyncio.to_thread(
                        self.read_file, path, every, "text/csv" in request.headers.get("accept", "")
                    )
        except HTTPException as error:
            self.requests.inc(tags={"outcome": str(error.status_code)})
            raise
        except UserError as error:
            self.requests.inc(tags={"outcome": "422"})
            raise HTTPException(422, hide_path(str(error), folder)) from None
        self.requests.inc(tags={"outcome": "200"})
        self.seconds.observe(time.monotonic() - started)
        return answer

    def check_token(self, credentials: HTTPAuthorizationCredentials | None) -> None:
        """Raise HTTPException 401 unless the client has sent the token."""
        sent = hashlib.sha256((credentials.credentials if credentials else "").encode()).hexdigest()
        if not hmac.compare_digest(sent, self.token_hash):
            raise HTTPException(401, "the token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})

    def read_file(self, path: Path, every: int, is_table: bool) -> Response:  # noqa: FBT001
        """Predict an uploaded file: a JSON answer, or a table as CSV. Raises HTTPException, UserError."""
        notes: list[str] = []
        ((item,), _) = list_inputs([str(path)])
        results, interval_s, _ = self.reader.predict_input(
            item, every=every, note=lambda _stage, reason: notes.append(reason)
        )
        layout = self.reader.layout
        meter = SummaryMeter(layout, interval_s, every)
        kept: list[FrameResult] = []
        for result in self._limit_length(result for _, result in results):
            meter.add(result)
            kept.append(result)
        if not kept:
            raise InputError("; ".join(notes) or "it holds no frames")
        self.frames.inc(len(kept))
        faces = sum(len(result.faces) for result in kept)
        if faces:
            self.faces.inc(faces)
        if is_table:
            file = io.BytesIO()
            pyarrow.csv.write_csv(build_table(kept, layout, source=""), file)
            return Response(file.getvalue(), media_type="text/csv", headers={"Cache-Control": "no-store"})
        answer = self._describe() | {
            "kind": item.kind,
            "frames": [describe_frame(result, layout) for result in kept],
            "summary": meter.summarize(),
            "notes": [hide_path(note, str(path.parent)) for note in notes],
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def _limit_length(self, results: Iterator[FrameResult]) -> Iterator[FrameResult]:
        """Pass frames on. Raises HTTPException for a clip that is longer than is read, whatever its header says."""
        for result in results:
            if result.time_s > self.serving.max_seconds:
                raise HTTPException(
                    413, f"the clip is longer than the {self.serving.max_seconds:g} s that this service reads; cut it"
                )
            yield result

    def _describe(self) -> dict[str, Any]:
        layout = self.reader.layout
        return {
            "name": self.reader.card.get("name", "a detector"),
            "aus": [f"AU{au:02d}" for au in layout.aus],
            "thresholds": [round(float(value), 6) for value in layout.thresholds],
        }
