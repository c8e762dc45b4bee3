"""Pods: "restricted" everywhere, no secret in a production rendering, no right but those that are needed."""

from __future__ import annotations

import base64
import copy
import re

import pytest
import yaml
from helm.chart import VALUE_FILES, load_values, render_objects

from manifests import change_values, find_object, load_objects, validate
from pods import list_breaches, list_pods, load_rayjob

PRODUCTION = ["values-fleet.yaml", "values-first-cluster.yaml", "values-second-cluster.yaml"]
TRIALS = [name for name in VALUE_FILES if name not in PRODUCTION]


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_pod_is_restricted(name):
    every_pod = list_pods(load_objects(name))
    assert len(every_pod) >= 5
    assert {pod.where: list_breaches(pod) for pod in every_pod if list_breaches(pod)} == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["containers"][0]["securityContext"].update(privileged=True), "is privileged"),
        (lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"), "keeps capabilities"),
        (lambda spec: spec["containers"][-1].pop("securityContext"), "autoscaler may gain privileges"),
        (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
        (lambda spec: spec["volumes"].append({"name": "disk", "hostPath": {"path": "/"}}), "volume disk"),
        (lambda spec: spec.pop("automountServiceAccountToken"), "holds a key"),
    ],
)
def test_a_breach_is_seen(change, words):
    head = next(pod for pod in list_pods(load_objects("values-gpu.yaml")) if pod.where == "RayCluster/facscale head")
    spec = copy.deepcopy(head.spec)
    change(spec)
    assert [line for line in list_breaches(head._replace(spec=spec)) if words in line]


@pytest.mark.parametrize("name", VALUE_FILES)
def test_only_the_autoscaler_holds_a_key_to_kubernetes(name):
    for pod in list_pods(load_objects(name)):
        keys = {volume["name"] for volume in pod.spec.get("volumes", []) if "projected" in volume}
        holders = {
            container["name"]
            for container in pod.containers
            for mount in container.get("volumeMounts", [])
            if mount["name"] in keys
        }
        assert holders <= {"autoscaler"}, pod.where


@pytest.mark.parametrize("name", PRODUCTION)
def test_no_secret_material_in_production(name):
    docs = load_objects(name)
    assert [doc for doc in docs if doc["kind"] == "Secret"] == []
    text = yaml.safe_dump_all(docs)
    assert re.findall(r"://[^/\s]*:[^/\s]*@", text) == []
    for pod in list_pods(docs):
        for container in pod.containers:
            loud = [
                variable["name"]
                for variable in container.get("env", [])
                if re.search("PASS|SECRET|TOKEN|KEY", variable["name"]) and "value" in variable
            ]
            assert loud == [], pod.where
    for doc in docs:
        if doc["kind"] == "ConfigMap":
            assert not [key for key in doc["data"] if re.search("PASS|SECRET|TOKEN|ACCESS_KEY", key)]


@pytest.mark.parametrize("name", TRIALS)
def test_a_trials_secrets_are_generated_long_and_differ(name):
    first, second = (
        {doc["metadata"]["name"]: doc for doc in render_objects(load_values(name)) if doc["kind"] == "Secret"}
        for _ in range(2)
    )
    names = {"facscale-ray-token", "facscale-mlflow", "facscale-tracking", "facscale-postgres", "facscale-object-store"}
    assert set(first) == names
    for secret, key in [
        ("ray-token", "auth_token"),
        ("postgres", "password"),
        ("object-store", "AWS_SECRET_ACCESS_KEY"),
    ]:
        first_value, second_value = (
            base64.b64decode(docs[f"facscale-{secret}"]["data"][key]) for docs in (first, second)
        )
        assert len(first_value) == 40
        assert first_value != second_value
    login = first["facscale-tracking"]["data"]["MLFLOW_TRACKING_PASSWORD"]
    assert login == first["facscale-mlflow"]["data"]["admin-password"]
    assert all(doc["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for doc in first.values())


@pytest.mark.parametrize("name", VALUE_FILES)
def test_secrets_that_pods_ask_for_are_there_or_named(name):
    docs = load_objects(name)
    generated = {doc["metadata"]["name"] for doc in docs if doc["kind"] == "Secret"}
    named = set(re.findall(r"(?:existingSecret|mlflowSecret): ([\w-]+)", yaml.safe_dump(load_values(name))))
    referenced = set(re.findall(r"secret(?:Key)?Ref:\s+(?:key: \S+\s+)?name: ([\w-]+)", yaml.safe_dump_all(docs)))
    referenced |= {job["spec"]["rayClusterSpec"]["authOptions"]["secretName"] for job in [load_rayjob(docs)]}
    assert referenced
    assert referenced <= generated | named


@pytest.mark.parametrize("name", VALUE_FILES)
def test_rights_are_few_and_of_the_namespace(name):
    docs = load_objects(name)
    assert [doc["kind"] for doc in docs if doc["kind"].startswith("Cluster")] == []
    for role in (doc for doc in docs if doc["kind"] == "Role"):
        for rule in role["rules"]:
            words = rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert not [word for word in words if "*" in word]
            assert not {"secrets", "pods/exec", "roles", "rolebindings", "serviceaccounts/token"} & set(
                rule["resources"]
            )
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
    roles = {doc["metadata"]["name"]: doc["rules"] for doc in docs if doc["kind"] == "Role"}
    assert roles["facscale-head"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
    ]
    for binding in (doc for doc in docs if doc["kind"] == "RoleBinding"):
        assert binding["roleRef"]["name"] in roles


@pytest.mark.parametrize("name", VALUE_FILES)
def test_service_accounts_that_pods_name_are_there_and_mount_nothing(name):
    docs = load_objects(name)
    accounts = {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "ServiceAccount"}
    assert all(doc["automountServiceAccountToken"] is False for doc in accounts.values())
    named = {pod.spec["serviceAccountName"] for pod in list_pods(docs) if "serviceAccountName" in pod.spec}
    assert named == set(accounts)


@pytest.mark.parametrize("name", VALUE_FILES)
def test_memory_is_asked_for_as_it_is_limited_and_shm_is_part_of_it(name):
    for pod in list_pods(load_objects(name)):
        for container in pod.containers:
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], pod.where
        shm = [volume["emptyDir"]["sizeLimit"] for volume in pod.spec.get("volumes", []) if volume["name"] == "shm"]
        if shm:
            assert gib(shm[0]) < gib(pod.spec["containers"][0]["resources"]["limits"]["memory"]), pod.where


def test_only_our_own_image_is_never_fetched():
    containers = [
        container
        for pod in list_pods(load_objects("values-kind.yaml"))
        for container in pod.containers
        if "image" in container
    ]
    policies = {(container["image"].split(":")[0], container["imagePullPolicy"]) for container in containers}
    assert policies == {("facscale", "Never"), ("postgres", "IfNotPresent"), ("chrislusf/seaweedfs", "IfNotPresent")}


@pytest.mark.parametrize("name", VALUE_FILES)
def test_rays_object_store_fits_into_shared_memory(name):
    spec = load_rayjob(load_objects(name))["spec"]["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        share = (
            int(group["rayStartParams"]["object-store-memory"]) / gib(volumes["shm"]["emptyDir"]["sizeLimit"]) / 2**30
        )
        assert share == pytest.approx(0.9)


def gib(quantity: str) -> float:
    """Of a quantity in Mi or Gi."""
    return float(quantity[:-2]) / {"Mi": 1024, "Gi": 1}[quantity[-2:]]


def test_gpu_groups_run_the_cuda_image_on_nodes_with_gpus():
    groups = load_rayjob(load_objects("values-fleet.yaml"))["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pods_by_group = {group["groupName"]: group["template"] for group in groups}
    assert list(pods_by_group) == ["cpu", "gpu", "gpu-spot"]
    for name, template in pods_by_group.items():
        spec = template["spec"]
        has_gpus = "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"]
        assert has_gpus == name.startswith("gpu")
        assert spec["containers"][0]["image"].endswith("-cuda") == has_gpus
        assert any(toleration["key"] == "nvidia.com/gpu" for toleration in spec.get("tolerations", [])) == has_gpus
        capacity = template["metadata"]["labels"]["facscale.dev/capacity"]
        assert capacity == ("on-demand" if name == "gpu" else "spot")


@pytest.mark.parametrize("name", VALUE_FILES)
def test_the_template_is_what_submit_expects(name):
    job = load_rayjob(load_objects(name))
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["entrypoint"] == "facscale run /etc/facscale/job/job.yaml"
    assert spec["shutdownAfterJobFinishes"] is True
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["containers"][0]["name"] == "ray-head"
    for group in cluster["workerGroupSpecs"]:
        container = group["template"]["spec"]["containers"][0]
        assert container["name"] == "ray-worker"
        assert {"configMapRef": {"name": "facscale-environment"}} in container["envFrom"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert {"replicas", "minReplicas", "maxReplicas"} <= group.keys()


def test_jobs_and_the_standing_cluster_are_made_alike():
    docs = load_objects("values-gpu.yaml")
    standing = next(doc for doc in docs if doc["kind"] == "RayCluster")["spec"]
    text = yaml.safe_dump(load_rayjob(docs)["spec"]["rayClusterSpec"]).replace("lifetime: job", "lifetime: standing")
    (head,) = standing["headGroupSpec"]["template"]["spec"]["containers"]
    (limits,) = (variable for variable in head["env"] if variable["name"] == "FACSCALE_CLUSTER_LIMITS")
    assert limits["value"] == "CPU=16,GPU=1"  # 2 pods of 4 CPUs, one of 8 CPUs and a GPU
    head["env"].remove(limits)
    assert standing.pop("upgradeStrategy") == {"type": "Recreate"}
    assert yaml.safe_load(text) == standing


def test_what_all_pods_get_reaches_each_pod_that_runs_our_image():
    mount, annotation = {"name": "ca", "mountPath": "/etc/ca", "readOnly": True}, {"example.org/owner": "faces"}
    added = {
        "pods.annotations": annotation,
        "pods.environment": {"AWS_CA_BUNDLE": "/etc/ca/ca.crt"},
        "pods.volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "pods.volumeMounts": [mount],
    }
    docs = render_objects(change_values("values-fleet.yaml", added))
    for doc in docs:
        validate(doc)
    for where in ("Deployment/facscale-mlflow", "Job/facscale-mlflow-migration"):
        assert annotation.items() <= find_object(docs, where)["spec"]["template"]["metadata"]["annotations"].items()
    head = find_object(docs, "RayCluster/facscale")["spec"]["headGroupSpec"]["template"]
    assert annotation.items() <= head["metadata"]["annotations"].items()
    pods = [pod for pod in list_pods(docs) if "facscale" in pod.spec["containers"][0]["image"]]
    assert len(pods) > 8
    for pod in pods:
        assert "ca" in [volume["name"] for volume in pod.spec["volumes"]], pod.where
        container = pod.spec["containers"][0]
        assert mount in container["volumeMounts"], pod.where
        assert {"name": "AWS_CA_BUNDLE", "value": "/etc/ca/ca.crt"} in container["env"], pod.where


def test_digests_further_resources_and_existing_priorities():
    digests = [f"sha256:{character * 64}" for character in "ab"]
    values = {
        "image.digest": digests[0],
        "image.cudaDigest": digests[1],
        "ray.groups.gpu.extraResources": {"vpc.amazonaws.com/efa": 4},
        "ray.groups.gpu.ephemeralStorage": "900Gi",
        "priorityClasses": {"create": False, "existing": {"worker": "batch"}},
    }
    docs = render_objects(change_values("values-fleet.yaml", values))
    assert not [doc for doc in docs if doc["kind"] == "PriorityClass"]
    cluster = find_object(docs, "RayCluster/facscale")["spec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["image"].endswith(f"@{digests[0]}")
    assert "priorityClassName" not in head
    (gpu,) = (group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu")
    spec = gpu["template"]["spec"]
    assert spec["priorityClassName"] == "batch"
    assert spec["containers"][0]["image"].endswith(f"@{digests[1]}")
    resources = spec["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"]
    assert resources["limits"]["vpc.amazonaws.com/efa"] == "4"
    assert resources["limits"]["ephemeral-storage"] == "900Gi"


def test_mlflow_may_have_an_identity_of_its_own():
    values = {"serviceAccounts.mlflowAnnotations": {"iam": "mlflow"}, "mlflow.artifactsSecret": "artifacts"}
    docs = render_objects(change_values("values-fleet.yaml", values))
    assert find_object(docs, "ServiceAccount/facscale-mlflow")["metadata"]["annotations"] == {"iam": "mlflow"}
    assert "iam" not in find_object(docs, "ServiceAccount/facscale-worker")["metadata"]["annotations"]
    server = find_object(docs, "Deployment/facscale-mlflow")["spec"]["template"]["spec"]["containers"][0]
    assert {"secretRef": {"name": "artifacts"}} in server["envFrom"]
