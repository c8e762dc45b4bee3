"""What is concluded from what nodes and drivers say; each conclusion has a case in which it is not drawn."""

from __future__ import annotations

import copy

import pytest

from facscale.data import DataError
from facscale.doctor import node
from facscale.doctor.checks import gpus, nodes, upload
from facscale.doctor.checks.storage import built_on, read, shared
from facscale.doctor.patient import named

HERE = {
    "versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.4.6"},
    "facscale": {"version": "0.1.0", "code": "aaaaaaaaaaaa"},
}
ROOMY = {
    "shm_bytes": 8 << 30,
    "tmp_used": 0.4,
    "open_files": 65536,
    "processes": -1,
    "free": {"/cache": {"bytes": 200e9, "writable": True}},
}
CARD = {"number": 0, "name": "H100", "total_bytes": 80 << 30, "free_bytes": 79 << 30, "difference": 1e-12}
COOL = {
    "index": "0",
    "name": "H100",
    "driver_version": "570",
    "temperature.gpu": "41",
    "ecc.errors.uncorrected.volatile.total": "0",
    "clocks_throttle_reasons.hw_slowdown": "Not Active",
    "clocks_throttle_reasons.sw_thermal_slowdown": "Not Active",
}


def states(found):
    return [(one.state, one.what) for one in found]


def test_a_node_like_ours_has_no_differences():
    assert list(nodes.differences(HERE, copy.deepcopy(HERE), name="b")) == []


@pytest.mark.parametrize(
    ("part", "changes", "state", "said"),
    [
        (
            "facscale",
            {"code": "bbbbbbbbbbbb"},
            "problem",
            "facscale is 0.1.0 (code bbbbbbbbbbbb) on b, 0.1.0 (code aaa",
        ),
        (
            "facscale",
            {"error": "ModuleNotFoundError: no facscale"},
            "problem",
            "b has no facscale: ModuleNotFoundError",
        ),
        ("versions", {"python": "3.12.1"}, "problem", "Python is 3.12.1 on b, 3.11.7 here"),
        ("versions", {"python": "3.11.9"}, "warning", "Python is 3.11.9 on b"),
        ("versions", {"torch": "2.12.0"}, "problem", "torch is 2.12.0 on b, 2.13.0 here"),
        ("versions", {"deepspeed": ""}, "problem", "deepspeed is missing on b"),
    ],
)
def test_software_that_differs_is_named(part, changes, state, said):
    there = copy.deepcopy(HERE)
    there[part] |= changes
    (one,) = nodes.differences(HERE, there, name="b")
    assert one.state == state
    assert one.what.startswith(said)
    assert one.mend


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({"shm_bytes": 64 << 20}, "warning", "b: /dev/shm has 64 MiB"),
        ({"tmp_used": 0.97}, "problem", "b: the disk of /tmp is 97% full"),
        ({"open_files": 1024}, "warning", "b: a process may open 1024 files"),
        ({"processes": 1024}, "warning", "b: 1024 processes and threads may run"),
        ({"free": {"/cache": {"bytes": 3e9, "writable": True}}}, "warning", "b: 3 GB are free for the cache /cache"),
        ({"free": {"/cache": {"bytes": 3e12, "writable": False}}}, "warning", "b: /cache cannot be written"),
    ],
)
def test_what_is_too_small_is_named(changes, state, said):
    assert list(nodes.narrow(ROOMY, name="b", cache=100e9)) == []
    assert states(nodes.narrow(ROOMY | changes, name="b", cache=100e9)) == [(state, said)]


def test_a_node_without_a_compiler():
    whole = {"a": {"compiler": {"g++": True, "ninja": True}}}
    assert [one.state for one in nodes.lacking(whole)] == ["ok"]
    (one,) = nodes.lacking(whole | {"b": {"compiler": {"g++": False, "ninja": False}}})
    assert one.what.startswith("b has no g++ and no ninja")


@pytest.mark.parametrize(("apart", "state"), [(0.4, "ok"), (7.0, "warning"), (900.0, "problem")])
def test_clocks_may_differ_a_little(apart, state):
    assert [one.state for one in nodes.skewed({"b": apart})] == [state]


def test_a_healthy_gpu_is_fine():
    (one,) = gpus.of_node("b", devices=[CARD], driver=[COOL], promised=1)
    assert (one.state, one.what) == (
        "ok", "b, GPU 0 (H100): 79.0 of 80.0 GiB free, multiplies as the CPU does",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "state", "said"),
    [
        ({"error": "RuntimeError: CUDA error: out of memory"}, "problem", "b, GPU 0 fails: RuntimeError"),
        ({"difference": 0.5}, "problem", "b, GPU 0 multiplies wrongly: 0.5 off"),
        ({"free_bytes": 3 << 30}, "warning", "b, GPU 0 (H100): 3.0 of 80.0 GiB are free"),
    ],
)
def test_a_gpu_that_is_ill_or_taken(device, state, said):
    (one,) = gpus.of_node("b", devices=[CARD | device], driver=[], promised=1)
    assert one.state == state
    assert one.what.startswith(said)


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        ({"ecc.errors.uncorrected.volatile.total": "3"}, "problem", "3 memory errors"),
        ({"temperature.gpu": "91"}, "warning", "91 C, slowed down (hot)"),
        ({"clocks_throttle_reasons.hw_slowdown": "Active"}, "warning", "slowed down (hw_slowdown)"),
    ],
)
def test_what_the_driver_complains_of(line, state, said):
    (one,) = gpus.of_driver("b, GPU 0", COOL | line)
    assert one.state == state
    assert said in one.what
    unknown = {name: "[N/A]" if name.startswith(("ecc", "temp")) else value for name, value in COOL.items()}
    assert list(gpus.of_driver("b, GPU 0", unknown)) == []


@pytest.mark.parametrize(
    ("devices", "driver", "promised", "said"),
    [
        ([], [COOL], 1, "b: the driver has 1 GPUs, torch sees none"),
        ([CARD], [], 2, "b: Ray promises 2 GPUs, torch sees 1"),
        ([CARD], [], 0, "b: torch sees 1 GPUs, Ray has 0 to give"),
    ],
)
def test_ray_torch_and_the_driver_must_agree(devices, driver, promised, said):
    assert said in [one.what for one in gpus.of_node("b", devices=devices, driver=driver, promised=promised)]


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A function: a program nvidia-smi that prints these lines and ends with this status."""

    def write(text, status=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


def test_the_driver_is_read_by_its_columns(smi):
    smi("0, NVIDIA H100, 570.1, 41, 0, Not Active, Not Active\n1, NVIDIA H100, 570.1, 88, [N/A], Active, Not Active")
    first, second = node.nvidia_smi()
    assert first["temperature.gpu"] == "41"
    assert second["clocks_throttle_reasons.hw_slowdown"] == "Active"
    smi("Field is not a valid field to query.", status=2)
    assert node.nvidia_smi() == []


def test_an_upload_is_weighed_as_ray_packs_it(tmp_path):
    for name, size in {"a.py": 10, ".git/pack": 5_000, "data/big.bin": 900, "data/none.log": 7_000}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / ".gitignore").write_text("*.log\n")
    files = {str(path.relative_to(tmp_path)): size for path, size in upload.carried(tmp_path).items()}
    assert files == {"a.py": 10, "data/big.bin": 900, ".gitignore": 6}
    assert upload.weighed(tmp_path, limit=10_000).state == "ok"
    assert upload.weighed(tmp_path, limit=2_000).state == "warning"
    heavy = upload.weighed(tmp_path, limit=900)
    assert heavy.state == "problem"
    assert "the largest: data/big.bin" in heavy.mend


def test_a_file_that_a_job_begins_with(tmp_path):
    (tmp_path / "resnet.pth").touch()
    assert built_on("inputs.pretrained", f"{tmp_path}/resnet.pth").state == "ok"
    assert built_on("inputs.pretrained", f"{tmp_path}/resnet18.pth").state == "problem"


def test_nodes_of_one_host_have_names_of_their_own():
    node_ = {"NodeManagerHostname": "vm", "NodeManagerAddress": "10.0.0.1"}
    names = [one["Name"] for one in named([{**node_, "NodeID": "a" * 9}, {**node_, "NodeID": "b" * 9}])]
    assert names == ["vm (10.0.0.1)", "vm (10.0.0.1) bbbbbb"]


def test_storage_is_told_by_node():
    found = list(
        read("s3://f/a", {"a": 120e6, "b": 3e6, "c": DataError("s3://f: no such bucket; create it"), "d": OSError("?")})
    )
    assert [one.state for one in found] == ["ok", "warning", "problem", "problem"]
    assert (found[2].what, found[2].mend) == ("from c: s3://f: no such bucket", "create it")
    assert [one.state for one in shared("/runs", {"a": True, "b": True})] == ["ok"]
    (blind,) = shared("/runs", {"a": True, "b": False})
    assert blind.what == "/runs is another folder on b than here"
