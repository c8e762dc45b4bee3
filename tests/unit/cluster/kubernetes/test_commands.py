"""submit, status, logs, cancel and list, against an API server, with a stand-in for the operator."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from click.testing import CliRunner

from conftest import ROOT
from facscale.cli import main
from facscale.cluster.kubernetes import kuberay_client
from kubeapi import Refusal

BAR = "clp                    ████████████············ 50/100 steps, 2 min 0 s left  loss 0.31"


@pytest.fixture
def facscale(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


class Operator:
    """Brings the RayJob one step further each time somebody looks at it."""

    def __init__(self, api, *steps):
        self.api, self.steps = api, list(steps)
        api.on_request.append(self.look)

    def look(self, verb, plural, name):
        if (verb, plural) == ("get", "rayjobs") and self.steps and ("rayjobs", name) in self.api.objects:
            self.steps.pop(0)(self.api, self.api.objects["rayjobs", name])


def status(deployment, job="", **more):
    def step(_api, body):
        body["status"] = body.get("status", {}) | {"jobDeploymentStatus": deployment, "jobStatus": job} | more

    return step


def pods(name, *, ready, unschedulable=""):
    def step(api, _body):
        conditions = [{"type": "Ready", "status": str(ready)}]
        if unschedulable:
            conditions.append({"type": "PodScheduled", "status": "False", "message": unschedulable})
        metadata = {"name": name, "labels": {"ray.io/cluster": "rc"}}
        api.add("pods", {"metadata": metadata, "status": {"conditions": conditions}})

    return step


def says(pod, *lines):
    """The submitter's pod repeats the job's log."""

    def step(api, body):
        if ("pods", pod) not in api.objects:
            labels = {"batch.kubernetes.io/job-name": body["metadata"]["name"]}
            containers = [{"name": "ray-job-submitter"}]
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            api.add(
                "pods",
                {"metadata": {"name": pod, "labels": labels}, "spec": {"containers": containers}, "status": ready},
            )
        log = api.logs.setdefault(pod, [])
        log += [(f"2026-11-25T03:28:{len(log) // 3:02}.{len(log):09}Z", line) for line in lines]

    return step


def both(*steps):
    def step(api, body):
        for one in steps:
            one(api, body)

    return step


GOES_WELL = (
    status("Initializing", rayClusterName="rc"),
    pods("rc-worker", ready=False, unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    pods("rc-worker", ready=True),
    both(says("s", "hello", BAR), status("Running", "RUNNING")),
    says("s", "F1 x 100 on bp4d", "MLflow: http://mlflow"),
    both(says("s", "bye"), status("Complete", "SUCCEEDED")),
)


def test_a_job_is_followed_from_its_cluster_to_its_end(facscale, kube_api, spec):
    Operator(kube_api, *GOES_WELL)
    done = facscale("submit", spec("cluster: {workers: 4}\n"), "--kube", "munich")
    assert done.exit_code == 0, done.output
    lines = [line.strip() for line in done.output.splitlines()]
    story = [
        "starting   its cluster is being created",
        "starting   0 of 1 pods are ready; rc-worker cannot be scheduled: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "starting   1 of 1 pods are ready",
        "running",
        "hello",
        BAR,
        "F1 x 100 on bp4d",
        "MLflow: http://mlflow",
        "bye",
    ]
    places = [lines.index(line) for line in story if line != "bye"]
    assert places == sorted(places)
    assert lines.count("hello") == lines.count("bye") == 1
    assert "succeeded" in lines[-1]


def test_everything_is_tried_before_anything_is_made_and_the_job_owns_its_spec(facscale, kube_api, spec):
    done = facscale("submit", spec(), "train.epochs=3", "--kube", "munich", "--detach")
    assert done.exit_code == 0, done.output
    asked = [(verb, plural, dry) for verb, plural, _, dry in kube_api.changes if verb == "create"]
    assert asked == [
        ("create", "rayjobs", True),
        ("create", "configmaps", True),
        ("create", "rayjobs", False),
        ("create", "configmaps", False),
    ]
    job = kube_api.get_only("rayjobs")
    kept = kube_api.objects["configmaps", f"{job['metadata']['name']}-spec"]
    (owner,) = kept["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", job["metadata"]["uid"])
    assert yaml.safe_load(kept["data"]["job.yaml"])["train"] == {"epochs": 3}
    assert f"facscale logs {job['metadata']['name']} --follow --kube munich" in done.output


def test_admission_refuses_and_nothing_is_made(facscale, kube_api, spec):
    def refuse(plural, _body):
        if plural == "rayjobs":
            raise Refusal(400, 'admission webhook "kueue" denied the request: no elastic jobs', "BadRequest")

    kube_api.admission.append(refuse)
    done = facscale("submit", spec(), "--kube", "munich")
    assert done.exit_code == 2
    assert "denied the request: no elastic jobs" in done.output
    assert "the queue's rules refuse it" in done.output
    assert kube_api.list_changes() == []


def test_what_fails_half_way_is_undone(facscale, kube_api, spec):
    def fail(verb, plural, _name):
        if (verb, plural) == ("create", "configmaps") and kube_api.list_changes():
            raise Refusal(500, "etcd is full", "InternalError")

    kube_api.on_request.append(fail)
    done = facscale("submit", spec(), "--kube", "munich", "--detach")
    assert done.exit_code == 2
    assert "etcd is full" in done.output
    assert not [key for key in kube_api.objects if key[0] == "rayjobs" or key[1].endswith("-spec")]


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("trian: {epochs: 3}\n", (), 'clp.yaml:3: unknown key "trian" (did you mean "train"?)'),
        ("", ("method.margn=1",), 'unknown key "method.margn" (did you mean "margin"?)'),
        ("train: {batch_size: 8}\ncluster: {workers: 3}\n", (), "does not divide among 3 workers"),
        ("cluster: {storage: /home/ann}\n", (), "cluster.storage is /home/ann, a folder that each pod would have"),
        ("track: {tags: {password: hunter2}}\n", (), '"track.tags.password" holds what looks like a secret'),
        ("data: {unlabelled: '${ELSEWHERE}/a'}\n", (), "is written twice"),
        (
            "",
            ("data.unlabelled=${ELSEWHERE}/a",),
            "${ELSEWHERE} is not set there: the environment of facscale-rayjob has",
        ),
        ("train: {batch_size: 99}\ncluster: {workers: 99}\n", (), "cluster.workers is 99"),
        ("sweep: {space: {train.epoch: [1, 2]}}\n", (), 'unknown key "train.epoch"'),
        ("", ("--group", "gpx"), 'no such GPU group (did you mean "gpu"?)'),
    ],
)
def test_a_wrong_spec_is_told_before_anything_is_made(facscale, kube_api, spec, text, words, message):
    done = facscale("submit", spec(text), *words, "--kube", "munich")
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert kube_api.list_changes() == []


def test_another_namespace(facscale, kube_api, spec):
    kube_api.namespace = "moods"
    done = facscale("submit", spec(), "--kube", "munich", "--namespace", "moods", "--detach")
    assert done.exit_code == 0, done.output
    assert "--kube munich --namespace moods" in done.output
    assert "there is no namespace" not in done.output
    told = facscale("list", "--kube", "munich", "--namespace", "moods").output
    assert kube_api.get_only("rayjobs")["metadata"]["name"] in told


def test_where_has_to_be_said(facscale, spec):
    done = facscale("submit", spec())
    assert done.exit_code == 2
    assert "--kube CLUSTER (Kubernetes) or --ray CLUSTER" in done.output


def test_the_same_spec_again(facscale, kube_api, spec):
    path = spec()
    submit = lambda *words: facscale("submit", path, "--kube", "munich", "--detach", *words)  # noqa: E731
    assert submit().exit_code == 0
    assert "is on munich already" in submit().output
    job = kube_api.get_only("rayjobs")
    job["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    told = submit()
    assert (told.exit_code, "finished already" in told.output, "--again" in told.output) == (0, True, True)
    job["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "lost"}
    told = submit()
    assert (told.exit_code, "has failed on munich (lost)" in told.output) == (1, True)
    assert kube_api.list_changes() == ["rayjobs", "configmaps"]
    assert submit("--again").exit_code == 0
    anew = kube_api.get_only("rayjobs")
    assert anew["metadata"]["uid"] != job["metadata"]["uid"]
    assert anew["metadata"]["name"] == job["metadata"]["name"]
    assert "status" not in anew


def test_what_would_share_its_checkpoints_waits(facscale, kube_api, spec):
    path = spec()
    facscale("submit", path, "--kube", "munich", "--detach")
    done = facscale("submit", path, "cluster.workers=2", "--kube", "munich", "--detach")
    assert done.exit_code == 2
    assert "both would write the same checkpoints" in done.output


def test_a_retry_is_followed_in_its_new_pod(facscale, kube_api, spec):
    Operator(
        kube_api,
        both(says("s1", "first", BAR), status("Running", "RUNNING", rayClusterName="rc")),
        status("Retrying", "FAILED", failed=1, reason="AppFailed", message="exit code 139"),
        status("Initializing", "", failed=1),
        both(says("s2", "second"), status("Running", "RUNNING", failed=1)),
        status("Failed", "FAILED", failed=2, reason="AppFailed", message="out of memory"),
    )
    done = facscale("submit", spec(), "--kube", "munich")
    assert done.exit_code == 1
    retry = "try 2 of 4, from its latest checkpoint (the last one failed: AppFailed: exit code 139)"
    for line in ("first", "second", retry, "retrying"):
        assert line in done.output
    assert "has failed at try 2: AppFailed: out of memory" in done.output
    assert "--kube munich --again" in done.output


def test_a_lost_connection_is_waited_out(facscale, kube_api, spec):
    lost = iter([True] * 4)  # the client itself tries three times

    def drop(verb, plural, _name):
        running = any(body.get("status") for (kind, _), body in kube_api.objects.items() if kind == "rayjobs")
        if (verb, plural) == ("get", "rayjobs") and running and next(lost, False):
            raise ConnectionAbortedError

    Operator(kube_api, status("Running", "RUNNING"), status("Running", "RUNNING"), status("Complete", "SUCCEEDED"))
    kube_api.on_request.insert(0, drop)
    done = facscale("submit", spec(), "--kube", "munich")
    assert done.exit_code == 0, done.output
    assert done.output.count("the job goes on; trying to reach it again") == 1


def test_the_queue_is_told(facscale, kube_api, spec):
    kube_api.groups["kueue.x-k8s.io"] = "v1beta2"

    def queued(api, body):
        assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "fast"
        body["spec"]["suspend"] = True
        condition = {"type": "QuotaReserved", "status": "False", "message": "needs 4 more nvidia.com/gpu"}
        labels = {"kueue.x-k8s.io/job-uid": body["metadata"]["uid"]}
        api.add("workloads", {"metadata": {"name": "w", "labels": labels}, "status": {"conditions": [condition]}})

    def admitted(_api, body):
        body["spec"]["suspend"] = False

    Operator(kube_api, queued, admitted, status("Complete", "SUCCEEDED"))
    done = facscale("submit", spec(), "--kube", "munich", "--queue", "fast")
    assert "queued     in the queue fast: needs 4 more nvidia.com/gpu" in done.output
    assert done.exit_code == 0


def test_ctrl_c_leaves_the_job_alone(facscale, kube_api, spec, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("facscale.cli.remote.follow_job", interrupted)
    done = facscale("submit", spec(), "--kube", "munich")
    assert done.exit_code == 130
    assert "keeps running" in done.output
    assert "facscale cancel clp-" in done.output
    assert kube_api.get_only("rayjobs")


@pytest.fixture
def running(facscale, kube_api, spec):
    facscale("submit", spec("cluster: {workers: [1, 2]}\n"), "train.epochs=3", "--kube", "munich", "--detach")
    job = kube_api.get_only("rayjobs")
    both(says("s", "hello", BAR, "and more"), status("Running", "RUNNING"))(kube_api, job)
    return job


def test_status_and_logs(facscale, running):
    told = facscale("status", "clp").output
    for text in (running["metadata"]["name"], "munich", "running", "50 % of clp", "1-2", "ago by", "clp.yaml"):
        assert text in told
    assert facscale("logs", "clp", "--kube", "munich").output.splitlines() == ["hello", BAR, "and more"]


def test_logs_of_what_has_not_begun_say_so(facscale, kube_api, spec):
    facscale("submit", spec(), "--kube", "munich", "--detach")
    assert re.search("No log output yet; job clp-[0-9a-f]+ is starting", facscale("logs", "clp").output)


def test_the_log_of_a_pod_that_is_gone(facscale, kube_api, running):
    running["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    del kube_api.objects["pods", "s"]
    done = facscale("logs", "clp")
    assert done.exit_code == 1
    assert "is succeeded, and its log is gone with its pod" in done.output


def test_cancel_keeps_the_checkpoints_and_says_how_to_go_on(facscale, kube_api, running):
    done = facscale("cancel", "clp")
    assert done.exit_code == 0, done.output
    assert "checkpoints stay" in done.output
    assert "clp.yaml train.epochs=3 --kube munich" in done.output
    assert not [key for key in kube_api.objects if key[0] == "rayjobs" or key[1].endswith("-spec")]


def test_what_is_over_cannot_be_cancelled(facscale, kube_api, running):
    running["status"]["jobDeploymentStatus"], running["status"]["jobStatus"] = "Complete", "SUCCEEDED"
    assert "is over" in facscale("cancel", "clp").output
    assert kube_api.get_only("rayjobs")


def test_an_operator_that_does_not_remove_the_job_is_told(facscale, kube_api, running, monkeypatch):
    monkeypatch.setattr(kuberay_client, "DELETION_TIMEOUT_S", 0.05)
    monkeypatch.setattr(kube_api, "_delete", lambda *_: "{}")
    done = facscale("cancel", "clp")
    assert done.exit_code == 2
    assert "does the KubeRay operator run?" in done.output


def test_list_shows_all_clusters_and_a_silent_one_is_a_line(facscale, running, tmp_path):
    (tmp_path / "clusters.yaml").write_text(
        "clusters:\n  munich: {context: gke-munich, namespace: faces}\n  away: {context: gke-gone}\n"
        "  lab: {address: 'http://127.0.0.1:9'}\n"
    )
    done = facscale("list")
    assert done.exit_code == 1, done.output
    (munich,) = [line for line in done.output.splitlines() if line.startswith("munich")]
    for text in (running["metadata"]["name"], "running", "50 % of clp", "1-2"):
        assert text in munich
    assert 'there is no context "gke-gone"' in " ".join(done.output.split())
    assert "no Ray cluster answers" in " ".join(done.output.split())


def test_status_names_clusters_that_do_not_answer(facscale, running, tmp_path):
    (tmp_path / "clusters.yaml").write_text(
        "clusters:\n  munich: {context: gke-munich, namespace: faces}\n  lab: {address: 'http://127.0.0.1:9'}\n"
    )
    done = facscale("status", "clp")
    assert done.exit_code == 0
    assert running["metadata"]["name"] in done.stdout
    assert "no answer: lab: no Ray cluster answers" in done.stderr


def test_without_clusters_list_says_where_to_write_them(facscale, monkeypatch, tmp_path):
    monkeypatch.delenv("FACSCALE_CLUSTERS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = facscale("list")
    assert done.exit_code == 2
    assert "clusters.yaml names no clusters" in done.output


@pytest.mark.parametrize(
    "path", [*(ROOT / "jobs").glob("*.yaml"), *(ROOT / "pipelines").glob("*.yaml")], ids=lambda path: path.stem
)
def test_every_job_and_pipeline_of_ours_can_be_submitted(facscale, kube_api, path):
    done = facscale("submit", path, "--kube", "munich", "--detach")
    assert done.exit_code == 0, done.output
    assert kube_api.list_changes() == ["rayjobs", "configmaps"]


@pytest.mark.parametrize("command", ["submit", "status", "logs", "cancel", "list"])
def test_every_command_explains_itself(facscale, command):
    done = facscale(command, "--help")
    assert done.exit_code == 0
    assert len(done.output) > 150


def test_no_secret_of_the_kubeconfig_is_ever_shown(facscale, kube_api, spec):
    kube_api.forbidden.add(("create", "rayjobs"))
    done = facscale("submit", spec(), "--kube", "munich")
    assert "may not create rayjobs.ray.io" in done.output
    assert json.loads(kube_api.kubeconfig())["users"][0]["user"]["token"] not in done.output
