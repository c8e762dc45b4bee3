"""The script of docs/how-to/gpu.md on a real Slurm of two hosts: Ray on both for as long as the allocation, and one job."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from faces import write_face_data_set
from hosts import Network, missing

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
ABSENT = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
pytestmark = [
    pytest.mark.nightly("a Slurm of two hosts, and a training over both", minutes=3),
    pytest.mark.skipif(bool(missing()), reason=missing() or "hosts can be made"),
    pytest.mark.skipif(bool(ABSENT), reason=f"{', '.join(ABSENT)} missing: apt-get install slurm-wlm munge"),
]

HOSTS = ("one", "two")
CONFIGURATION = """\
ClusterName=try
SlurmctldHost=one
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=one NodeAddr={one} CPUs=1
NodeName=two NodeAddr={two} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""
SMALL = (
    "method.depth=18 method.width=4 method.hidden=8 method.embedding=8 method.length=3 method.queue_size=32 "
    "data.image_size=32 data.threads=1 train.batch_size=8 train.epochs=2 train.precision=float32 "
    "cluster.workers=2 cluster.gpus_per_worker=0 cluster.cpus_per_worker=1 "
    "evaluate.protocol=linear-probe evaluate.folds=2 'evaluate.probe={epochs: 1}' evaluate.rendered_people=0 evaluate.detector=none"
)
PATIENCE_S = 300


def read_script():
    """The page's script, for two hosts of one core without GPUs, and a small job."""
    page = (ROOT / "docs" / "how-to" / "gpu.md").read_text()
    script = re.search(r'```bash title="clp.sbatch"\n(.*?)```', page, re.DOTALL)[1]
    changes = {
        r"--nodes=4": "--nodes=2",
        r" --gpus-per-node=4": "",
        r"--cpus-per-task=32": "--cpus-per-task=1",
        r"/shared/": "$SHARED/",
        r"cluster\.workers=16 cluster\.cpus_per_worker=8": SMALL,
    }
    for pattern, replacement in changes.items():
        script, count = re.subn(pattern, replacement, script)
        assert count, f"the script of the page has no {pattern}"
    return script


def test_the_script_of_the_page_trains_on_all_nodes_of_its_allocation(tmp_path):
    shared = tmp_path / "shared"
    for name, people in (("voxceleb2", 16), ("bp4d", 6), ("disfa", 6)):
        au = () if name == "voxceleb2" else (1, 12)
        write_face_data_set(str(shared / "faces" / name), [12] * people, au=au, row_group_mb=0.2, name=name)
    (tmp_path / "clp.sbatch").write_text(read_script())
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "state").mkdir()
    (tmp_path / "munge.key").write_bytes(os.urandom(128))
    (tmp_path / "munge.key").chmod(0o400)
    with Network(*HOSTS) as network:
        variables = {
            "PATH": PATH,
            "HOME": str(network.own),
            "SHARED": str(shared),
            "SLURM_CONF": str(tmp_path / "slurm.conf"),
            "PYTHONPATH": str(ROOT / "platform"),
            "TORCH_EXTENSIONS_DIR": os.environ["TORCH_EXTENSIONS_DIR"],
            "RAY_TMPDIR": str(network.own),
            "OMP_NUM_THREADS": "1",
        }
        one, two = (network[name] for name in HOSTS)
        configuration = CONFIGURATION.format(folder=tmp_path, one=one.address, two=two.address)
        (tmp_path / "slurm.conf").write_text(configuration)
        munge = ["munged", "--foreground", "--force", f"--key-file={tmp_path}/munge.key"]
        munge += [f"--socket={tmp_path}/munge.socket", f"--pid-file={tmp_path}/munge.pid"]
        munge += [f"--log-file={tmp_path}/munge.log", f"--seed-file={tmp_path}/munge.seed"]
        one.start(*munge, variables=variables, log=tmp_path / "munged.out")
        wait = f"until [ -S {tmp_path}/munge.socket ]; do sleep 0.2; done"
        one.run("sh", "-c", wait, variables=variables, timeout=PATIENCE_S)
        one.start("slurmctld", "-D", variables=variables, log=tmp_path / "slurmctld.out")
        for host in (one, two):
            host.start("slurmd", "-D", "-N", host.name, variables=variables, log=tmp_path / f"slurmd-{host.name}.out")
        submit = (
            f"cd {tmp_path} && until sinfo -h -t idle | grep -q ' 2 '; do sleep 0.5; done; sbatch --wait clp.sbatch"
        )
        try:
            one.run("sh", "-c", submit, variables=variables, timeout=PATIENCE_S)
        except RuntimeError as error:
            logs = "\n".join(path.read_text(errors="replace")[-6000:] for path in tmp_path.glob("slurm-*.out"))
            raise AssertionError(f"{error}\n{logs}") from None
    (printed,) = tmp_path.glob("slurm-*.out")
    text = printed.read_text()
    assert "F1 x 100" in text
    assert list((shared / "runs").glob("clp-*/method.safetensors")), text[-5000:]
