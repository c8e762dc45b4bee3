"""What the chart's containers run, run here: the object store, MLflow with its migration, and the programs of `helm test`."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from helm.chart import render_objects

from containers import build_command, build_environment, start_container
from facscale.cli.demo import get_ray_credentials, start_ray, stop_ray
from manifests import change_values, find_object
from ports import free_port, free_run
from s3 import free_ports

pytestmark = pytest.mark.slow("MLflow, Postgres, an object store and Ray start")

READY_S = 600.0
METRICS = importlib.util.find_spec("prometheus_flask_exporter") is not None


@pytest.fixture(scope="module")
def docs():
    ingress = {"enabled": True, "host": "mlflow.example.org", "tlsSecret": "certificate"}
    return render_objects(change_values("values-gpu.yaml", {"mlflow.ingress": ingress, "monitoring.enabled": METRICS}))


def status(url, host=None, headers=(), body=None):
    """Of a request; 0 where nobody answers."""
    request = urllib.request.Request(url, body, headers={**dict(headers), **({"Host": host} if host else {})})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait(url, process, log):
    end = time.monotonic() + READY_S
    while status(url) != 200:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.3)


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def helm_test(docs, name, others, log):
    """Run the program of a pod of `helm test`: its exit status, and what it said."""
    container = find_object(docs, f"Pod/facscale-test-{name}")["spec"]["containers"][0]
    variables = build_environment(docs, container, {"HOME": str(log.parent), **others})
    process = start_container(build_command(container, variables), variables, log)
    return process.wait(600), log.read_text()


@pytest.fixture(scope="module")
def store(docs, tmp_path_factory):
    """The object store's container, on other ports and another disk."""
    folder = tmp_path_factory.mktemp("store")
    container = find_object(docs, "StatefulSet/facscale-object-store")["spec"]["template"]["spec"]["containers"][0]
    s3, master, volume, filer = free_ports(4)
    variables = build_environment(docs, container, {"TMPDIR": str(folder)})
    words = [
        word.replace("=/data", f"={folder}").replace("=8333", f"={s3}") for word in build_command(container, variables)
    ]
    words += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    process = start_container(words, variables, folder / "log")
    wait(f"http://127.0.0.1:{s3}{container['readinessProbe']['httpGet']['path']}", process, folder / "log")
    yield {"url": f"http://127.0.0.1:{s3}", "s3": s3, "closed": [master, volume, filer]}
    stop(process)


def test_object_store_is_written_and_read_by_its_key_alone(docs, store, tmp_path):
    other = {"AWS_ENDPOINT_URL": store["url"]}
    code, log = helm_test(docs, "storage", other, tmp_path / "log")
    assert code == 0, log
    assert "s3://facscale/runs: written, read and deleted" in log
    code, log = helm_test(docs, "storage", {**other, "AWS_SECRET_ACCESS_KEY": "wrong"}, tmp_path / "wrong")
    assert code == 1
    assert "SignatureDoesNotMatch" in log or "PermissionError" in log


def test_of_the_object_store_only_s3_can_be_reached(store):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks by which address this machine would go out
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but the loopback's")
    assert answers(address, store["s3"])
    assert [port for port in store["closed"] if answers(address, port)] == []
    assert all(answers("127.0.0.1", port) for port in store["closed"])


def answers(host, port):
    with socket.socket() as probe:
        probe.settimeout(3)
        return probe.connect_ex((host, port)) == 0


@pytest.fixture(scope="module")
def mlflow(docs, tmp_path_factory, postgres):
    """MLflow's containers, migration first, on a Postgres of this machine; yields the server's address."""
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's logins are missing: pip install 'mlflow[auth]'")
    folder = tmp_path_factory.mktemp("mlflow")
    pod = find_object(docs, "Deployment/facscale-mlflow")["spec"]["template"]["spec"]
    port = free_port()
    here = postgres.url.removesuffix("/postgres").replace("postgres@", "")  # user and password are libpq's to find
    sql = find_object(docs, "ConfigMap/facscale-postgres")["data"]["databases.sql"] + "CREATE DATABASE mlflow;"
    psql = [postgres._bin / "psql", "-h", "127.0.0.1", "-p", str(postgres.port), "-U", "postgres"]
    for line in sql.split("\n"):
        subprocess.run([*psql, "-c", line], check=True, capture_output=True)
    settings = find_object(docs, "ConfigMap/facscale-mlflow")["data"]["auth.ini"]
    (folder / "auth.ini").write_text(settings.replace("postgresql+psycopg2://facscale-postgres:5432", here))
    others = {
        "HOME": str(folder),
        "PGUSER": "postgres",
        "POD_IP": "127.0.0.1",
        "DATABASE": f"{here}/mlflow",
        "AUTH_DATABASE": f"{here}/mlflow_auth",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
    }
    migrate, server = pod["initContainers"][0], pod["containers"][0]
    for _ in range(2):  # the second time there is nothing to do
        variables = build_environment(docs, migrate, others)
        assert start_container(build_command(migrate, variables), variables, folder / "log").wait(900) == 0, (
            folder / "log"
        ).read_text()
    variables = build_environment(docs, server, others)
    words = [
        word.replace("5000", str(port))
        .replace("s3://facscale/mlflow", (folder / "artifacts").as_uri())
        .replace("/tmp/metrics", str(folder / "metrics"))
        for word in build_command(server, variables)
    ]
    process = start_container(words, variables, folder / "log")
    wait(f"http://127.0.0.1:{port}{server['readinessProbe']['httpGet']['path']}", process, folder / "log")
    yield f"http://127.0.0.1:{port}"
    stop(process)


def test_mlflow_is_healthy_closed_and_open_to_our_jobs(docs, mlflow, tmp_path):
    code, log = helm_test(docs, "mlflow", {"MLFLOW_TRACKING_URI": mlflow}, tmp_path / "log")
    assert code == 0, log
    assert "healthy, refuses requests without a login, accepts the login of our jobs" in log
    wrong = {"MLFLOW_TRACKING_URI": mlflow, "MLFLOW_TRACKING_PASSWORD": "wrong"}
    code, log = helm_test(docs, "mlflow", wrong, tmp_path / "wrong")
    assert code == 1
    assert "answers 401 to the login of our jobs" in log


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("facscale-mlflow:5000", 401),  # known, and asked for a login
        ("facscale-mlflow.research.svc:5000", 401),
        ("mlflow.example.org", 401),
        ("localhost:5000", 401),
        ("evil.example.org", 403),
        ("10.9.8.7:5000", 403),
    ],
)
def test_mlflow_answers_to_its_own_names_alone(mlflow, host, answer):
    assert status(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1", host=host) == answer
    assert status(f"{mlflow}/health", host=host) == 200  # probes come by the pod's address


def login(docs):
    """The header by which jobs are let in."""
    data = find_object(docs, "Secret/facscale-tracking")["data"]
    words = [base64.b64decode(data[f"MLFLOW_TRACKING_{part}"]).decode() for part in ("USERNAME", "PASSWORD")]
    return {"Authorization": f"Basic {base64.b64encode(':'.join(words).encode()).decode()}"}


@pytest.mark.skipif(not METRICS, reason="MLflow's metrics are missing: pip install prometheus-flask-exporter")
def test_prometheus_reads_mlflows_metrics_at_the_pods_address_with_a_login(docs, mlflow):
    monitor = find_object(docs, "ServiceMonitor/facscale-mlflow")["spec"]["endpoints"][0]
    address = mlflow.removeprefix("http://")  # POD_IP and port, as Prometheus calls it
    assert status(mlflow + monitor["path"], host=address) == 401
    assert status(mlflow + monitor["path"], host=address, headers=login(docs)) == 200


@pytest.mark.parametrize(
    ("origin", "answer"), [("https://mlflow.example.org", 200), ("https://evil.example.org", 403), ("", 200)]
)
def test_only_mlflows_own_pages_change_something(docs, mlflow, origin, answer):
    headers = login(docs) | {"Content-Type": "application/json"} | ({"Origin": origin} if origin else {})
    body = json.dumps({"max_results": 5}).encode()
    url = f"{mlflow}/ajax-api/2.0/mlflow/experiments/search"
    assert status(url, host="mlflow.example.org", headers=headers, body=body) == answer


def test_ray_takes_jobs_by_the_token_alone(docs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    port = free_run(4)  # the dashboard's is followed by those of two helpers
    dashboard = port + 1
    start_ray(folder, port=port, dashboard=dashboard)
    try:
        token = get_ray_credentials(folder)["RAY_AUTH_TOKEN"]
        here = {"DASHBOARD": f"http://127.0.0.1:{dashboard}", "TOKEN": token}
        code, log = helm_test(docs, "ray", here, folder / "test")
        assert code == 0, log
        code, log = helm_test(docs, "ray", {**here, "TOKEN": "another"}, folder / "wrong")
        assert code == 1
        assert "to the right token" in log
    finally:
        stop_ray(folder / "ray.pid")
