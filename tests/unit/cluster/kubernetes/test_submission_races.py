"""Several clients that submit the same job at the same time, and submissions that were cut off: one job, and a whole one."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from facscale.cli import main
from facscale.cluster.kubernetes import KubeError, resolve_kube_target
from facscale.cluster.kubernetes.client import JobState
from facscale.cluster.kubernetes.kuberay_client import KubeRayClient
from facscale.cluster.kubernetes.manifest import SubmitOptions
from facscale.cluster.kubernetes.submission import ResourceRequest, build_submission
from facscale.cluster.kubernetes.submission_policy import SubmitAction, decide_submission

CLIENTS, ROUNDS = 6, 15
REQUEST = ResourceRequest(min_workers=1, max_workers=2, gpus_per_worker=1, cpus_per_worker=4)


def submit(submission, *, again=False):
    """What `facscale submit` does between reading the spec and watching the job; returns whether the job is new."""
    client = KubeRayClient(resolve_kube_target("munich"))
    decision = decide_submission(submission, client.list_jobs(), again=again)
    if decision.action is SubmitAction.ATTACH:
        client.complete(submission, decision.job)
        return False
    if decision.action is SubmitAction.RESTART:
        client.remove(decision.job)
    return client.submit(submission, request=REQUEST, options=SubmitOptions()).is_new


def submit_together(kube_api, submission, *, seed, again=False):
    """Have all clients submit within a few milliseconds, each delayed anew before every request."""
    delays, guard = random.Random(seed), threading.Lock()

    def wait(*_):
        with guard:
            delay = delays.uniform(0, 0.004)
        time.sleep(delay)

    kube_api.on_request.append(wait)
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(lambda _: submit(submission, again=again), range(CLIENTS)))
    finally:
        kube_api.on_request.remove(wait)


def check_whole(kube_api, submission):
    """Assert that there is one RayJob, and its ConfigMap, which it owns. Returns the RayJob."""
    rayjob = kube_api.get_only("rayjobs")
    configmap = kube_api.objects["configmaps", f"{submission.id}-spec"]
    (owner,) = configmap["metadata"]["ownerReferences"]
    assert owner["uid"] == rayjob["metadata"]["uid"]
    assert configmap["data"]["job.yaml"] == submission.spec_text
    return rayjob


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_many_clients_make_one_job(kube_api, spec, seed):
    submission = build_submission(spec(), [])
    outcomes = submit_together(kube_api, submission, seed=seed)
    check_whole(kube_api, submission)
    assert outcomes.count(True) == 1


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_many_clients_restart_a_job_once(kube_api, spec, seed):
    submission = build_submission(spec(), [])
    submit(submission)
    ended = kube_api.get_only("rayjobs")
    ended["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}
    kube_api.finalizers.add("rayjobs")

    def finalize(*_):
        if "deletionTimestamp" in ended["metadata"] and kube_api.objects.get(("rayjobs", submission.id)) is ended:
            kube_api.finalize("rayjobs", submission.id)

    kube_api.on_request.append(finalize)
    outcomes = submit_together(kube_api, submission, seed=seed, again=True)
    assert check_whole(kube_api, submission)["metadata"]["uid"] != ended["metadata"]["uid"]
    assert outcomes.count(True) == 1


def test_the_next_submission_completes_one_that_was_cut_off(kube_api, spec):
    path = spec()
    submission = build_submission(path, [])
    submit(submission)
    del kube_api.objects["configmaps", f"{submission.id}-spec"]  # its client was killed between the two requests
    done = CliRunner().invoke(main, ["submit", str(path), "--kube", "munich", "--detach"])
    assert done.exit_code == 0, done.output
    check_whole(kube_api, submission)


def test_a_configmap_of_an_earlier_job_goes_first(kube_api, spec):
    submission = build_submission(spec(), [])
    name = f"{submission.id}-spec"
    owner = {"kind": "RayJob", "uid": "of-a-job-that-is-gone"}
    kube_api.add("configmaps", {"metadata": {"name": name, "ownerReferences": [owner]}, "data": {"job.yaml": "old"}})
    looks = iter([False, True])

    def collect_garbage(verb, plural, looked_up):
        if (verb, plural, looked_up) == ("get", "configmaps", name) and next(looks, False):
            del kube_api.objects["configmaps", name]

    kube_api.on_request.append(collect_garbage)
    assert submit(submission)
    check_whole(kube_api, submission)


def test_a_configmap_that_nobody_owns_is_named(kube_api, spec):
    submission = build_submission(spec(), [])
    kube_api.add("configmaps", {"metadata": {"name": f"{submission.id}-spec"}, "data": {"job.yaml": "old"}})
    with pytest.raises(KubeError, match=rf"{submission.id}-spec belongs to no job.*kubectl delete configmap"):
        submit(submission)
    assert not [key for key in kube_api.objects if key[0] == "rayjobs"]


def test_a_job_that_is_being_deleted_is_not_over(kube_api, spec):
    submission = build_submission(spec(), [])
    submit(submission)
    kube_api.finalizers.add("rayjobs")
    client = KubeRayClient(resolve_kube_target("munich"))
    first = client.get_job(submission.id)
    kube_api.objects["rayjobs", submission.id]["metadata"]["deletionTimestamp"] = "2026-11-29T20:00:00Z"
    stopping = client.get_job(submission.id)
    assert (stopping.state, stopping.state.is_terminal) == (JobState.STOPPING, False)
    rival = build_submission(spec(), ["cluster.workers=2"])
    assert decide_submission(rival, [stopping], again=True).action is SubmitAction.REJECT_CONFLICT

    def finalize(verb, plural, _name):
        if (verb, plural) == ("get", "rayjobs") and ("rayjobs", submission.id) in kube_api.objects:
            kube_api.finalize("rayjobs", submission.id)

    kube_api.on_request.append(finalize)
    assert submit(submission)
    kube_api.on_request.remove(finalize)
    assert client.get_job(submission.id).uid != first.uid


def test_options_have_no_effect_on_a_job_that_runs(kube_api, spec):
    path = spec()
    call = lambda *words: CliRunner().invoke(main, ["submit", str(path), "--kube", "munich", "--detach", *words])  # noqa: E731
    assert call("--group", "gpu-spot").exit_code == 0
    assert call("--group", "gpu-spot").exit_code == 0
    assert call().exit_code == 0
    refused = call("--image", "faces:2")
    assert refused.exit_code == 2
    assert "runs on munich already, --group gpu-spot: --image faces:2 has no effect on it" in refused.output
