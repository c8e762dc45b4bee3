"""Runs in spawned processes: trains a small GAN under DeepSpeed on any number of gloo ranks."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from facscale.methods import DataFacts, Loss, Method, MethodConfig, trains
from facscale.methods.base import sum_losses
from facscale.spec import Job
from facscale.spec.models import Cluster

BATCH = 12
CASES = [*((name, stage) for name in ("sgd", "adam") for stage in (0, 1, 2)), ("lars", 0)]


class Pair(Method):
    """Two roots and two phases that see each other's modules, without BatchNorm: equal for any number of workers."""

    constant_rate = ("critic", "head")

    def __init__(self) -> None:
        super().__init__(MethodConfig(), DataFacts())
        self.encoder = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.head = nn.Linear(3, 3)
        self.critic = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    @trains("critic")
    def judge(self, batch):
        return {"judge": Loss((self.critic(self.head(self.encoder(batch))) - batch[:, :1]).square().mean())}

    @trains("encoder", "head")
    def fool(self, batch):
        return {"fool": Loss(self.critic(self.head(self.encoder(batch))).square().mean(), 0.5)}


def job(name, stage, **train):
    optimizer = {"name": name, "lr": 0.05}
    return Job(
        method={"name": "pair"},
        train={"batch_size": BATCH, "optimizer": optimizer, "clip": 0.5, **train},
        deepspeed={"zero_optimization": {"stage": stage}},
    )


def samples(step):
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(step))


def plain_torch(name, steps):
    """The reference: one process, no engine."""
    from facscale.train.engine import build_optimizer

    torch.manual_seed(0)
    method = Pair()
    optimizers = {
        phase: (
            build_optimizer(job(name, 0), [{"params": list(method.get_submodule(m).parameters())} for m in modules]),
            modules,
        )
        for phase, modules in method.phases().items()
    }
    for step in range(steps):
        for phase, (update, modules) in optimizers.items():
            for group, module in zip(update.param_groups, modules, strict=True):
                group["lr"] = rate(step) if module == "encoder" else 0.05
            method.zero_grad()
            sum_losses(getattr(method, phase)(samples(step))).backward()
            nn.utils.clip_grad_norm_([p for m in modules for p in method.get_submodule(m).parameters()], 0.5)
            update.step()
    return method.state_dict()


def rate(step):
    """A schedule; the critic's rate does not follow it."""
    return 0.05 * 0.7**step


def train(name, stage, *, rank, world, start, stop, state):
    from facscale.train.engine import Engine, freeze_others

    torch.manual_seed(0)
    method = Pair()
    if state:
        method.load_state_dict(state["method"])
    engines = {root.phases[0]: Engine(method, root, job=job(name, stage), world=world) for root in method.roots()}
    for phase, engine in engines.items():
        engine.load_state(state["engines"][phase] if state else {})
    for step in range(start, stop):
        for phase, engine in engines.items():
            engine.set_learning_rate(rate(step))
            with freeze_others(engine, list(engines.values())):
                loss = sum_losses(getattr(method, phase)(samples(step)[rank::world]))
            engine.backward(loss)
            engine.step()
    return {"method": method.state_dict(), "engines": {phase: engine.state() for phase, engine in engines.items()}}


def begin(rank, world, port):
    warnings.simplefilter("ignore")
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)


def desert(rank, port, told):
    """Of two workers one takes a step, and the other neither does nor goes away."""
    from facscale.train.engine import Engine

    begin(rank, 2, port)
    method = Pair()
    patient = job("sgd", 0).model_copy(update={"cluster": Cluster(collective_timeout_s=2)})
    (engine, *_) = [Engine(method, root, job=patient, world=2) for root in method.roots()]
    if rank == 0:
        try:
            engine.backward(method.judge(samples(0)[:6])["judge"].value)
        except RuntimeError as error:
            Path(told).write_text(str(error))
    end = time.monotonic() + 60
    while not Path(told).exists() and time.monotonic() < end:
        time.sleep(0.05)
    os._exit(0)  # an orderly end would wait for the other one


def work(rank, world, folder, port):
    """World 2 trains 6 steps at once, and 3; worlds of other sizes go on from the 3 to 6."""
    begin(rank, world, port)
    folder = Path(folder)
    for name, stage in CASES:
        half = folder / f"{name}-{stage}-half.pt"
        if world == 2:
            whole = train(name, stage, rank=rank, world=world, start=0, stop=6, state=None)
            saved = train(name, stage, rank=rank, world=world, start=0, stop=3, state=None)
            if rank == 0:
                torch.save(whole, folder / f"{name}-{stage}-whole.pt")
                torch.save(saved, half)
            torch.distributed.barrier()
        state = torch.load(half, weights_only=True)
        resumed = train(name, stage, rank=rank, world=world, start=3, stop=6, state=state)
        if rank == 0:
            torch.save(resumed, folder / f"{name}-{stage}-resumed-{world}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
