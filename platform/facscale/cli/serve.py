"""`facscale serve`: a detector behind HTTP on this machine, or on the Ray cluster that RAY_ADDRESS names."""

from __future__ import annotations

import os
import secrets
import signal
import threading

import ray

from facscale.cluster.ray import join
from facscale.errors import UserError
from facscale.inference.onnx_export import INSTALL

APP = "facscale"
LOGGING = {"log_level": "WARNING", "enable_access_log": False}  # who asked when is nobody's business


def serve_detector(
    model: str,
    *,
    host: str,
    port: int,
    tracker: str,
    max_megabytes: float,
    max_seconds: float,
    fronts: int,
    gpus: float,
) -> None:
    """Serve a detector until Ctrl-C or SIGTERM. Raises UserError where the service does not start."""
    try:
        from ray import serve

        from facscale.inference.serving import TOKEN_VARIABLE, Serving, build_app
    except ImportError as error:
        install = INSTALL.replace("export", "serve")
        raise UserError(f"facscale serve needs the package {error.name}; install it: {install}") from None

    is_own = not os.environ.get(TOKEN_VARIABLE)
    if is_own:
        os.environ[TOKEN_VARIABLE] = secrets.token_urlsafe()
    serving = Serving(
        model=model,
        tracker=tracker,
        max_megabytes=max_megabytes,
        max_seconds=max_seconds,
        fronts=1,
        max_fronts=fronts,
        network_gpus=gpus,
    )
    app = build_app(serving)
    stopped = threading.Event()
    is_new = not ray.is_initialized()
    join()
    for number in (signal.SIGINT, signal.SIGTERM):  # now: Ray has put handlers of its own in place
        signal.signal(number, lambda *_: stopped.set())
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config=LOGGING)
        serve.run(app, name=APP, route_prefix="/", logging_config=LOGGING)
        address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104 - compared
        print(f"{model} is served at {address}/{'#' + os.environ[TOKEN_VARIABLE] if is_own else ''}", flush=True)
        if is_own:
            print(f"The address holds the token; {TOKEN_VARIABLE} sets one of your own. Ctrl-C stops the service.")
        metrics = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()]
        print(f"Metrics for Prometheus: {', '.join(metrics)}", flush=True)
        stopped.wait()
    except RuntimeError as error:
        raise UserError(f"the service did not start: {' '.join(str(error).split())[:400]}") from None
    finally:
        serve.shutdown()
        if is_new:
            ray.shutdown()
