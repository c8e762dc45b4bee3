"""What a sweep keeps for the day that it is resumed: plain data, for its folder may be a bucket that others can write to.

Ray Tune's own way to resume a sweep is to unpickle what lies in its folder, which runs the code of whoever wrote it. A
forged record can make a sweep choose badly, as forged weights can; it can neither run code nor name another folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from facscale.data.storage import Folder
from facscale.errors import UserError
from facscale.spec.sweep import Scalar, Span, Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.train.task import ResumePoint

FILE = "trials.json"  # in the folder of the sweep
FORMAT = 1
NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # of a trial, and of the folder of a training
_OUTCOMES = TypeAdapter(list[TrialOutcome])


class SweepError(UserError):
    """A sweep has no result, or cannot be resumed."""


def write_record(folder: Folder, outcomes: Iterable[TrialOutcome]) -> None:
    """Write all trials so far, in place of an earlier record. Raises DataError where the store does not take it."""
    record = {"format": FORMAT, "trials": [asdict(outcome) for outcome in outcomes]}
    folder.write(FILE, json.dumps(record).encode())


def read_record(folder: Folder, sweep: Sweep) -> list[TrialOutcome]:
    """The trials of a sweep that began before, in the order in which they began; [] where there are none.

    Raises SweepError for a record that is damaged, or that this sweep cannot have written.
    """
    try:
        content = folder.read(FILE)
    except FileNotFoundError:
        return []
    try:
        return _parse_record(content, sweep)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{error}" or type(error).__name__
        raise SweepError(
            f"{folder.url}/{FILE} is not the record of this sweep ({reason}): delete it, and the search begins anew"
        ) from None


def check_training_name(name: Any) -> str:
    """The name of a training's folder. Raises ValueError for one that would lead elsewhere."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{str(name)[:80]!r} is not the name of a training")
    return name


def parse_pointer(content: bytes) -> ResumePoint:
    """Which training a trial resumes from. Raises SweepError for text that is no such pointer."""
    try:
        pointer = json.loads(content)
        return ResumePoint(training=check_training_name(pointer["training"]), step=int(pointer["step"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SweepError(f"a trial's checkpoint does not say which training it belongs to ({error})") from None


def _parse_record(content: bytes, sweep: Sweep) -> list[TrialOutcome]:
    """The trials of a record. Raises ValueError, KeyError, TypeError or RecursionError for any other text."""
    record = json.loads(content)
    if record["format"] != FORMAT:
        raise ValueError(f"its format is {record['format']}, and this version of facscale reads {FORMAT}")
    outcomes = _OUTCOMES.validate_python(record["trials"])
    if len({outcome.trial for outcome in outcomes}) < len(outcomes):
        raise ValueError("two trials have one name")
    for outcome in outcomes:
        _check_outcome(outcome, sweep)
    return [replace(outcome, history=tuple(outcome.history)) for outcome in outcomes]


def _check_outcome(outcome: TrialOutcome, sweep: Sweep) -> None:
    """Raise ValueError for a trial that a sweep cannot have had."""
    for name in filter(None, (outcome.place, outcome.training)):
        check_training_name(name)
    if not NAME.fullmatch(outcome.trial):
        raise ValueError(f"{outcome.trial[:80]!r} is not the name of a trial")
    if set(outcome.values) != set(sweep.active_space):
        raise ValueError(f"trial {outcome.trial} has other keys than the space")
    for key, value in outcome.values.items():
        if not _is_in_domain(value, sweep.active_space[key]):
            raise ValueError(f"trial {outcome.trial} has {key}={value}, which is not in the space")


def _is_in_domain(value: Scalar, domain: Span | tuple[Scalar, ...]) -> bool:
    if isinstance(domain, tuple):
        return value in domain
    if isinstance(value, bool | str):
        return False
    margin = 1e-9 * max(abs(domain.low), abs(domain.high))  # a draw from a logarithmic range is rounded
    return domain.low - margin <= value <= domain.high + margin
