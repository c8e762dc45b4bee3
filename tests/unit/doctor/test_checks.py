"""What is concluded from what nodes and drivers say; each conclusion has a case in which it is not drawn."""

from __future__ import annotations

import copy

import pynvml
import pytest
from ray._private import ray_constants
from ray._private.runtime_env import packaging

from facscale.data import DataError
from facscale.doctor import node
from facscale.doctor.checks import gpus, nodes, upload
from facscale.doctor.checks.storage import check_input, check_read_rates, check_shared
from facscale.doctor.context import name_nodes

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
COOL = {"index": 0, "temperature_c": 41, "ecc_errors": 0, "slowdowns": []}


def states(found):
    return [(one.severity, one.message) for one in found]


def test_a_node_like_ours_has_no_differences():
    assert list(nodes.compare_versions(HERE, copy.deepcopy(HERE), name="b")) == []


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
    (one,) = nodes.compare_versions(HERE, there, name="b")
    assert one.severity == state
    assert one.message.startswith(said)
    assert one.fix


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
    assert list(nodes.find_low_limits(ROOMY, name="b", cache_bytes=100e9)) == []
    assert states(nodes.find_low_limits(ROOMY | changes, name="b", cache_bytes=100e9)) == [(state, said)]


def test_a_node_without_a_compiler():
    tools = {"g++": True, "ninja": True}
    complete = {"a": {"operator": False, "compiler": tools}}
    assert [one.severity for one in nodes.find_missing_programs(complete)] == ["ok"]
    bare = {"operator": False, "compiler": dict.fromkeys(tools, False)}
    (one,) = nodes.find_missing_programs(complete | {"b": bare})
    assert one.message.startswith("b has no g++ and no ninja")
    (one,) = nodes.find_missing_programs({"image": bare | {"operator": True}})
    assert (one.severity, one.message) == ("ok", "DeepSpeed was installed with its operator: no compiler is needed")


@pytest.mark.parametrize(("apart", "state"), [(0.4, "ok"), (7.0, "warning"), (900.0, "problem")])
def test_clocks_may_differ_a_little(apart, state):
    assert [one.severity for one in nodes.compare_clocks({"b": apart})] == [state]


def test_a_healthy_gpu_is_fine():
    (one,) = gpus.check_node_gpus("b", gpus=[CARD], driver=[COOL], ray_count=1)
    assert (one.severity, one.message) == ("ok", "b, GPU 0 (H100): 79.0 of 80.0 GiB free, multiplies as the CPU does")


@pytest.mark.parametrize(
    ("device", "state", "said"),
    [
        ({"error": "RuntimeError: CUDA error: out of memory"}, "problem", "b, GPU 0 fails: RuntimeError"),
        ({"difference": 0.5}, "problem", "b, GPU 0 multiplies wrongly: 0.5 off"),
        ({"free_bytes": 3 << 30}, "warning", "b, GPU 0 (H100): 3.0 of 80.0 GiB are free"),
    ],
)
def test_a_gpu_that_is_ill_or_taken(device, state, said):
    (one,) = gpus.check_node_gpus("b", gpus=[CARD | device], driver=[], ray_count=1)
    assert one.severity == state
    assert one.message.startswith(said)


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        ({"ecc_errors": 3}, "problem", "3 memory errors"),
        ({"temperature_c": 91}, "warning", "91 C, slowed down (hot)"),
        ({"slowdowns": ["hw_slowdown"]}, "warning", "41 C, slowed down (hw_slowdown)"),
    ],
)
def test_what_the_driver_complains_of(line, state, said):
    (one,) = gpus.check_health("b, GPU 0", COOL | line)
    assert one.severity == state
    assert said in one.message
    unknown = COOL | {"temperature_c": None, "ecc_errors": None}
    assert list(gpus.check_health("b, GPU 0", unknown)) == []


@pytest.mark.parametrize(
    ("devices", "driver", "promised", "said"),
    [
        ([], [COOL], 1, "b: the driver has 1 GPUs, torch sees none"),
        ([CARD], [], 2, "b: Ray promises 2 GPUs, torch sees 1"),
        ([CARD], [], 0, "b: torch sees 1 GPUs, Ray has 0 to give"),
    ],
)
def test_ray_torch_and_the_driver_must_agree(devices, driver, promised, said):
    assert said in [one.message for one in gpus.check_node_gpus("b", gpus=devices, driver=driver, ray_count=promised)]


def refuse(*_):
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def driver(monkeypatch):
    """A driver with two GPUs: a hot one that slows down and has no ECC, and a MIG device without any figures."""
    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTemperature": lambda handle, _: refuse() if handle else 88,
        "nvmlDeviceGetTotalEccErrors": refuse,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: (
            refuse() if handle else pynvml.nvmlClocksEventReasonHwSlowdown | pynvml.nvmlClocksEventReasonSwPowerCap
        ),
    }
    for name, function in functions.items():
        assert hasattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, function)


@pytest.mark.usefixtures("driver")
def test_the_driver_is_read_gpu_by_gpu():
    assert node.read_gpu_health() == [
        {"index": 0, "temperature_c": 88, "ecc_errors": None, "slowdowns": ["hw_slowdown"]},
        {"index": 1, "temperature_c": None, "ecc_errors": None, "slowdowns": []},
    ]


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION])
def test_without_a_driver_there_are_no_gpus(monkeypatch, error):
    def fail():
        raise pynvml.NVMLError(error)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert node.read_gpu_health() == []


def test_an_upload_is_weighed_as_ray_packs_it(tmp_path):
    for name, size in {"a.py": 10, ".git/pack": 5_000, "data/big.bin": 900, "data/none.log": 7_000}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / ".gitignore").write_text("*.log\n")
    files = {str(path.relative_to(tmp_path)): path.stat().st_size for path in upload.list_upload(tmp_path)}
    assert files == {"a.py": 10, "data/big.bin": 900, ".gitignore": 6}
    assert upload.weigh_upload(tmp_path, limit=10_000).severity == "ok"
    assert upload.weigh_upload(tmp_path, limit=2_000).severity == "warning"
    heavy = upload.weigh_upload(tmp_path, limit=900)
    assert heavy.severity == "problem"
    assert "the largest: data/big.bin" in heavy.fix


def test_rays_own_rules_pack_the_same_files(tmp_path):
    names = [
        "a.py",
        ".git/pack",
        "venv/x",
        "b/.venv/x",
        "b/a.log",
        "b/keep.log",
        "b/c/d.bin",
        "b/c/e.txt",
        "f.tmp",
        "data/g",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("*.log\ndata/\n# comment\n\n")
    (tmp_path / ".rayignore").write_text("*.tmp\n")
    (tmp_path / "b" / ".gitignore").write_text("c/*.bin\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    packed = []
    excludes = [packaging._get_excludes(tmp_path, ray_constants.get_runtime_env_default_excludes())]
    packaging._dir_travel(tmp_path, excludes, packed.append, include_gitignore=True)
    assert set(upload.list_upload(tmp_path)) == {path for path in packed if path.is_file()}
    assert upload.RAY_LIMIT_BYTES == packaging.GCS_STORAGE_MAX_SIZE


def test_a_file_that_a_job_begins_with(tmp_path):
    (tmp_path / "resnet.pth").touch()
    assert check_input("inputs.pretrained", f"{tmp_path}/resnet.pth").severity == "ok"
    assert check_input("inputs.pretrained", f"{tmp_path}/resnet18.pth").severity == "problem"


def test_nodes_of_one_host_have_names_of_their_own():
    node_ = {"NodeManagerHostname": "vm", "NodeManagerAddress": "10.0.0.1"}
    names = [one["Name"] for one in name_nodes([{**node_, "NodeID": "a" * 9}, {**node_, "NodeID": "b" * 9}])]
    assert names == ["vm (10.0.0.1)", "vm (10.0.0.1) bbbbbb"]


def test_storage_is_told_by_node():
    found = list(
        check_read_rates(
            "s3://f/a", {"a": 120e6, "b": 3e6, "c": DataError("s3://f: no such bucket; create it"), "d": OSError("?")}
        )
    )
    assert [one.severity for one in found] == ["ok", "warning", "problem", "problem"]
    assert (found[2].message, found[2].fix) == ("from c: s3://f: no such bucket", "create it")
    assert check_shared("/runs", {"a": True, "b": True}).severity == "ok"
    blind = check_shared("/runs", {"a": True, "b": False})
    assert blind.message == "/runs is another folder on b than here"
