"""Relative paths in specs: those of the folder of whoever starts a job, wherever its workers run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from facscale.compat import ray_jobs
from facscale.spec import Job, Pipeline, parse, read_spec
from facscale.spec.document import keep_variables

JOB = """
method: {name: clp}
data: {unlabelled: faces, labelled: [./bp4d/, "${SETS}/disfa"], cache: cache}
evaluate: {transfer: [gft]}
cluster: {storage: runs}
start: {url: old/method.safetensors, sha256: 0123456789abcdef}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A current folder, in a process that Ray Jobs did not start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SETS", "sets")
    monkeypatch.setenv("FACSCALE_RUNS", "runs")
    monkeypatch.delenv(ray_jobs.CONFIG, raising=False)
    return tmp_path


def read_job(text, **options):
    Path("job.yaml").write_text(text)
    return parse(read_spec("job.yaml", **options), Job)


def list_paths(job):
    return [
        job.data.unlabelled,
        *job.data.labelled,
        job.data.cache,
        *job.evaluate.transfer,
        job.cluster.storage,
        job.start.url,
    ]


def test_relative_paths_are_those_of_the_current_folder(here):
    names = ["faces", "bp4d", "sets/disfa", "cache", "gft", "runs", "old/method.safetensors"]
    assert list_paths(read_job(JOB)) == [f"{here}/{name}" for name in names]
    assert read_job("method: {name: clp}").cluster.storage == f"{here}/runs"
    text = "source: {layout: videos, root: raw}\noutput: faces\n"
    (here / "pipeline.yaml").write_text(text)
    pipeline = parse(read_spec("pipeline.yaml"), Pipeline)
    assert (pipeline.source.root, pipeline.output) == (f"{here}/raw", f"{here}/faces")


def test_workers_read_the_folder_that_the_driver_meant(here, monkeypatch, tmp_path_factory):
    pickled = read_job(JOB).model_dump_json()
    monkeypatch.chdir(tmp_path_factory.mktemp("worker"))
    assert Job.model_validate_json(pickled).data.unlabelled == f"{here}/faces"


@pytest.mark.parametrize("url", ["s3://faces/bp4d", "file:///faces", "/faces", "~/faces", "zip://a.zip::s3://b/c"])
def test_other_places_stay_as_they_are_written(url):
    assert read_job(f'{{method: {{name: clp}}, data: {{unlabelled: "{url}"}}}}').data.unlabelled == url


def test_a_variable_that_is_not_resolved_may_still_be_a_full_path():
    text = "{method: {name: clp}, data: {unlabelled: '${NOWHERE}/faces'}}"
    assert read_job(text, resolve=keep_variables).data.unlabelled == "${NOWHERE}/faces"


@pytest.mark.parametrize("runtime_env", [{"working_dir": "gcs://_ray_pkg_0123.zip"}, {"env_vars": {}}, None])
def test_in_a_submitted_job_they_belong_to_its_working_directory(here, monkeypatch, runtime_env):
    """Each node has a copy of that, in which the workers run; without one, they belong to where the driver runs."""
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps({"runtime_env": runtime_env, "metadata": {}}))
    assert ray_jobs.is_submitted()
    expected = "faces" if runtime_env and "working_dir" in runtime_env else f"{here}/faces"
    assert read_job(JOB).data.unlabelled == expected
