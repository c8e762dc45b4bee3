"""From a spec and the chart's template to what is sent."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import zipfile

import pytest
import yaml

import kuberay
from facscale.cluster.kubernetes import code_archive
from facscale.cluster.kubernetes.code_archive import CodeError, pack_folder
from facscale.cluster.kubernetes.manifest import SubmitOptions, build_configmap, build_rayjob, plan_pods
from facscale.cluster.kubernetes.submission import (
    ResourceRequest,
    build_submission,
    check_shared_storage,
    compute_request,
    resolve_spec,
)
from facscale.cluster.kubernetes.template import RayJobTemplate, parse_quantity
from facscale.spec import Job, SpecError, parse

CLUSTER = {"FACSCALE_DATA": "s3://faces", "FACSCALE_RUNS": "s3://faces/runs"}


@pytest.fixture
def chart(template):
    return RayJobTemplate("facscale-rayjob", template, CLUSTER)


@pytest.fixture
def job_for(chart, spec):
    """A function: the RayJob of a spec with these lines, on the chart's template."""

    def make(text="", *overrides, **options):
        path = spec(text)
        request = compute_request(parse(resolve_spec(path, overrides, CLUSTER), Job))
        return build_rayjob(chart, build_submission(path, overrides), request=request, options=SubmitOptions(**options))

    return make


def groups(job):
    found = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return {one["groupName"]: (one["minReplicas"], one["replicas"], one["maxReplicas"]) for one in found}


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("{workers: 4, gpus_per_worker: 1}", {"cpu": (0, 0, 4), "gpu": (1, 1, 1)}),
        ("{workers: 10, gpus_per_worker: 1}", {"cpu": (0, 0, 4), "gpu": (3, 3, 3)}),
        ("{workers: 3, gpus_per_worker: 3}", {"cpu": (0, 0, 4), "gpu": (3, 3, 3)}),  # two of 3 do not fit a pod of 4
        ("{workers: 8, gpus_per_worker: 0.5, cpus_per_worker: 2}", {"cpu": (0, 0, 4), "gpu": (1, 1, 1)}),
        ("{workers: 8, gpus_per_worker: 0.5, cpus_per_worker: 4}", {"cpu": (0, 0, 4), "gpu": (2, 2, 2)}),  # 16 CPUs
        ("{workers: [2, 12], gpus_per_worker: 1}", {"cpu": (0, 0, 4), "gpu": (1, 1, 3)}),
        ("{workers: 40, gpus_per_worker: 1}", {"cpu": (0, 0, 4), "gpu-spot": (10, 10, 10)}),  # more than gpu may have
        ("{workers: 4, gpus_per_worker: 0, cpus_per_worker: 4}", {"cpu": (2, 2, 2)}),
    ],
)
def test_pods_that_hold_the_workers(job_for, cluster, expected):
    assert groups(job_for(f"cluster: {cluster}\n")) == expected


def test_a_sweep_has_room_for_its_trials(job_for):
    sweep = "sweep: {space: {seed: [1, 2, 3]}, concurrent: 3}\n"
    assert groups(job_for(f"cluster: {{workers: 4}}\n{sweep}"))["gpu"] == (1, 1, 3)


def test_without_an_autoscaler_all_pods_are_there_from_the_start(job_for, template):
    template["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = False
    assert groups(job_for("cluster: {workers: [2, 12]}\n"))["gpu"] == (1, 3, 3)


@pytest.mark.parametrize("is_elastic", [False, True])
def test_a_job_in_a_queue_has_a_size_that_kueue_admits(job_for, template, is_elastic):
    template["spec"]["rayClusterSpec"]["autoscalerOptions"] = {"version": "v2"}
    if is_elastic:
        template["metadata"]["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    text = "cluster: {workers: [2, 12]}\n"
    assert kuberay.list_kueue_errors(job_for(text)) == []  # without a queue
    job = job_for(text, queue="gpu")
    assert kuberay.list_kueue_errors(job) == []
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert groups(job)["gpu"] == ((1, 1, 3) if is_elastic else (1, 3, 3))
    assert ("autoscalerOptions" in job["spec"]["rayClusterSpec"]) is is_elastic


def test_a_group_by_name(job_for):
    assert "gpu" not in groups(job_for("cluster: {workers: 4}\n", group="gpu-spot"))
    with pytest.raises(SpecError, match='no such GPU group.*did you mean "gpu-spot"'):
        job_for("cluster: {workers: 4}\n", group="gpu-spto")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            "{workers: 2, gpus_per_worker: 8}",
            "gpus_per_worker is 8, a pod of the group gpu has 4: a worker cannot span",
        ),
        ("{workers: 2, cpus_per_worker: 20}", "cpus_per_worker is 20, a pod of the group gpu has 16"),
        ("{workers: 90}", "workers is 90, .* gpu 4 pods of 4 workers, gpu-spot 16 pods of 4 workers: ask for fewer"),
    ],
)
def test_what_no_pod_can_hold(job_for, cluster, message):
    with pytest.raises(SpecError, match=message):
        job_for(f"cluster: {cluster}\n")


def test_a_chart_without_gpus(job_for, template):
    del template["spec"]["rayClusterSpec"]["workerGroupSpecs"][1:]
    with pytest.raises(SpecError, match="no GPU worker group.*gpus_per_worker=0 trains on CPUs"):
        job_for("cluster: {workers: 2}\n")


def test_head_and_workers_see_the_spec_and_the_template_is_untouched(job_for, chart, template):
    before = yaml.safe_dump(template)
    job = job_for("cluster: {workers: 2}\n")
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"]["entrypoint"] == "facscale run /etc/facscale/job/job.yaml"
    for pod in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        inside = pod["template"]["spec"]
        assert {"name": "facscale-job", "configMap": {"name": f"{job['metadata']['name']}-spec"}} in inside["volumes"]
        (mount,) = inside["containers"][0]["volumeMounts"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/etc/facscale/job", True)
        assert len(inside["volumes"]) == 2  # the chart's own one is still there
    assert yaml.safe_dump(template) == before


def test_image_and_queue(job_for, template):
    template["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["initContainers"] = [
        {"name": "i", "image": "busy:1"}
    ]
    job = job_for("cluster: {workers: 2}\n", image="faces:2", queue="fast")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "fast"
    text = yaml.safe_dump(job)
    assert "faces:1" not in text
    assert "busy:1" in text  # no image of ours
    assert job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "faces:2"


def test_names_and_labels_are_what_kubernetes_takes(spec, chart):
    made = build_submission(
        spec("name: CLP on Münchner Gesichter, a rather long name for a job indeed\n", "x.yaml"), []
    )
    assert made.id.startswith("clp-on-m-nchner-gesichter")
    assert len(made.id) <= 47
    labels = build_configmap(made)["metadata"]["labels"]
    assert all(len(value) <= 63 and value.strip("-") == value for value in labels.values())
    assert build_submission(spec(name="7up.yaml"), []).id.startswith("job-7up-")


def test_the_same_spec_has_the_same_id_and_what_differs_another(spec):
    one = build_submission(spec(), [])
    assert one.digest == build_submission(spec("# a comment\n"), []).digest
    wider = build_submission(spec(), ["cluster.workers=8"])
    other = build_submission(spec(), ["seed=7"])
    assert len({one.id, wider.id, other.id}) == 3
    assert (
        one.training_digest == wider.training_digest != other.training_digest
    )  # the same checkpoints, whatever the number of workers


def test_the_spec_travels_whole_with_its_variables_and_its_name(spec):
    spec("train: {epochs: 7}\n", "parent.yaml")
    path = spec(name="ignored.yaml")
    path.write_text("extends: parent.yaml\nseed: 3\n")
    text = build_configmap(build_submission(path, ["train.batch_size=8"]))["data"]["job.yaml"]
    document = yaml.safe_load(text)
    assert text.startswith("#!/usr/bin/env -S facscale run\n")
    assert document["name"] == "ignored"
    assert document["train"] == {"epochs": 7, "batch_size": 8}
    assert document["data"]["unlabelled"] == "${FACSCALE_DATA}/vox"


@pytest.mark.parametrize(
    ("text", "environment", "refused"),
    [
        ("", CLUSTER, False),
        ("cluster: {storage: s3://mine/runs}\n", CLUSTER, False),
        ("cluster: {storage: '${FACSCALE_DATA}/runs'}\n", CLUSTER, False),
        ("cluster: {storage: /home/ann/runs}\n", CLUSTER, True),
        ("cluster: {storage: 'file:///home/ann'}\n", CLUSTER, True),
        ("", {"FACSCALE_DATA": "s3://faces"}, True),
        ("cluster: {storage: '${RUNS:-~/runs}'}\n", CLUSTER, True),
        ("", CLUSTER | {"FACSCALE_RUNS": "/volume/runs"}, False),  # the cluster's owner has mounted one for all
        ("cluster: {storage: /other}\n", CLUSTER | {"FACSCALE_RUNS": "/volume/runs"}, True),
    ],
)
def test_storage_that_pods_would_not_share_is_refused(spec, monkeypatch, text, environment, refused):
    monkeypatch.setenv("FACSCALE_RUNS", "/what/this/laptop/has")
    document = resolve_spec(spec(text), [], environment, source="the chart")
    if refused:
        with pytest.raises(SpecError, match=r"cluster.storage is .*, a folder that each pod would have for itself"):
            check_shared_storage(document, environment)
    else:
        check_shared_storage(document, environment)


def test_a_variable_that_the_cluster_does_not_set(spec):
    with pytest.raises(SpecError, match=r"clp.yaml:2: \$\{FACSCALE_DATA\} is not set there: the chart has A; write"):
        resolve_spec(spec(), [], {"A": "1"}, source="the chart")


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), (4, 4), ("2", 2), ("1.5", 1.5), ("2k", 2000)])
def test_quantities(text, value):
    assert parse_quantity(text) == value


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code" / "mine").mkdir(parents=True)
    (tmp_path / "code" / "mine" / "method.py").write_text("x = 1\n")
    (tmp_path / "code" / "mine" / "__pycache__").mkdir()
    (tmp_path / "code" / "mine" / "__pycache__" / "method.pyc").write_bytes(b"0")
    (tmp_path / "code" / ".hidden").write_text("secret")
    return tmp_path / "code"


def test_code_travels_without_caches_and_is_the_same_bytes_each_time(folder, spec, job_for, chart):
    packed = pack_folder(folder)
    assert packed.content == pack_folder(folder).content
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == ["facscale-code.txt", "mine/method.py"]
    made = build_submission(spec(), [], code=packed)
    assert made.id != build_submission(spec(), []).id
    assert base64.b64decode(build_configmap(made)["binaryData"]["code.zip"]) == packed.content
    job = build_rayjob(chart, made, request=ResourceRequest(1, 1, 1, 1), options=SubmitOptions())
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"]) == {"working_dir": "file:///etc/facscale/job/code.zip"}


def test_code_of_a_checkout_is_what_git_knows(folder):
    (folder / ".gitignore").write_text("*.bin\n")
    (folder / "large.bin").write_bytes(b"0" * 100)
    subprocess.run(["git", "init", "-q", folder], check=True)
    with zipfile.ZipFile(io.BytesIO(pack_folder(folder).content)) as archive:
        assert set(archive.namelist()) == {"facscale-code.txt", "mine/method.py", ".gitignore", ".hidden"}


def test_code_of_others_runs_no_program_while_it_is_packed(folder, tmp_path):
    """A folder that came as an archive belongs to who unpacked it, so that git trusts its configuration."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    monitor, mark = tmp_path / "monitor", tmp_path / "was-run"
    monitor.write_text(f"#!/bin/sh\ntouch {mark}\n")
    monitor.chmod(0o755)
    subprocess.run(["git", "-C", folder, "config", "core.fsmonitor", str(monitor)], check=True)
    subprocess.run(["git", "-C", folder, "ls-files", "--others"], check=True, capture_output=True)
    assert mark.exists(), "git itself runs it"
    mark.unlink()
    pack_folder(folder)
    assert not mark.exists()


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "private").write_text("private")
    (folder / "inside.py").symlink_to(folder / "mine" / "method.py")
    pack_folder(folder)
    (folder / "outside.py").symlink_to(tmp_path / "private")
    with pytest.raises(CodeError, match=f"outside.py leads to {tmp_path / 'private'}, outside the folder"):
        pack_folder(folder)


def test_files_of_passwords_are_left_out_and_named(folder):
    subprocess.run(["git", "init", "-q", folder], check=True)
    for name in (".env", ".env.local", "server.key", "aws_credentials.json", "mine/id_rsa", "mine/.netrc"):
        (folder / name).write_text("secret")
    packed = pack_folder(folder)
    assert set(packed.left_out) == {
        ".env", ".env.local", "server.key", "aws_credentials.json", "mine/id_rsa", "mine/.netrc"
    }  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert set(archive.namelist()) == {"facscale-code.txt", "mine/method.py", ".hidden"}


def test_code_that_is_too_large_names_the_largest_files(folder, monkeypatch):
    monkeypatch.setattr(code_archive, "MAX_ZIP_BYTES", 1000)
    (folder / "weights.pt").write_bytes(os.urandom(5000))
    with pytest.raises(CodeError, match=r"(?s)The largest files:\n +0.01 MB  weights.pt\n.*--image"):
        pack_folder(folder)
    with pytest.raises(CodeError, match="there is no such folder"):
        pack_folder(folder / "nowhere")


def test_the_pods_of_a_pipeline_are_cpu_pods(chart):
    assert plan_pods(chart, ResourceRequest(12, 12, 0, 2), SubmitOptions())[1:] == (3, 3)
