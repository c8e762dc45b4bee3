"""The actor that collects the events of trainings is killed, as the kernel does for want of memory."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray
from ray.exceptions import RayActorError

from facscale.train.events import StepMetrics
from facscale.train.ray.event_queue import EventDispatcher

pytestmark = [pytest.mark.slow("an actor that Ray starts twice"), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def received():
    return []


@pytest.fixture
def dispatcher(received):
    return EventDispatcher(received.append, every_s=0.1)


def kill_buffer(dispatcher):
    pid = ray.get(dispatcher.queue.actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)


def put_until_it_arrives(dispatcher, event):
    for _ in range(100):
        try:
            dispatcher.queue.put_and_wait(event)
        except RayActorError:
            time.sleep(0.2)
        else:
            return
    pytest.fail("Ray did not start the actor again")


def test_events_after_a_kill_are_received_and_the_loss_is_told(dispatcher, received, caplog):
    first, later = (StepMetrics(step, {"loss/total": 1.0}) for step in (1, 2))
    put_until_it_arrives(dispatcher, first)
    dispatcher.drain()
    kill_buffer(dispatcher)
    put_until_it_arrives(dispatcher, later)
    dispatcher.close()
    assert received == [first, later]
    assert "events of trainings was killed" in caplog.text


def test_a_training_whose_last_events_are_lost_is_not_taken_for_finished(dispatcher):
    ray.kill(dispatcher.queue.actor)
    with pytest.raises(RayActorError):
        dispatcher.close()
