import json
import subprocess
import sys

import pytest

from facscale.track.journal import Delivery, Journal, SpoolInUseError, hold_spool
from facscale.track.sender import _group_batches


def metrics(step, *, run="job", **values):
    return {"do": "metrics", "lane": "records", "run": run, "time": 1, "step": step, "values": values}


def records(journal, start=0):
    return [entry.record for entry in journal.read_entries(start)]


def test_records_are_read_in_order_from_any_offset(tmp_path):
    journal = Journal(tmp_path)
    for step in range(5):
        journal.append(metrics(step, loss=float(step)))
    entries = list(journal.read_entries(0))
    assert [entry.record["step"] for entry in entries] == [0, 1, 2, 3, 4]
    for number, entry in enumerate(entries):
        assert records(journal, entry.end) == [later.record for later in entries[number + 1 :]]


def test_a_step_is_written_once_also_by_a_later_process(tmp_path):
    journal = Journal(tmp_path)
    journal.append(metrics(1, loss=0.5))
    journal.append(metrics(1, loss=9.9, other=1.0))  # only `other` is new
    journal.append(metrics(1, loss=9.9))
    journal.append(metrics(1, run="another", loss=2.0))
    again = Journal(tmp_path)
    again.append(metrics(1, loss=9.9))
    again.append(metrics(2, loss=0.4))
    written = [(record["run"], record["step"], record["values"]) for record in records(again)]
    assert written == [
        ("job", 1, {"loss": 0.5}),
        ("job", 1, {"other": 1.0}),
        ("another", 1, {"loss": 2.0}),
        ("job", 2, {"loss": 0.4}),
    ]


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_an_unfinished_line_loses_only_itself(tmp_path, cut):
    journal = Journal(tmp_path)
    journal.append(metrics(0, loss=1.0))
    journal.append(metrics(1, loss=1.0))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])  # killed in the middle of writing
    assert [record["step"] for record in records(Journal(tmp_path))] in ([0], [0, 1])
    again = Journal(tmp_path)
    again.append(metrics(2, loss=1.0))
    steps = [record["step"] for record in records(again)]
    assert steps[0] == 0
    assert steps[-1] == 2


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
    journal = Journal(tmp_path)
    journal.append(metrics(0, a=float("nan"), b=float("-inf"), c=1.0))
    line = (tmp_path / "journal.jsonl").read_text()
    values = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["values"]
    assert values == {"a": "nan", "b": "-inf", "c": 1.0}


def test_deliveries_are_saved_and_a_damaged_file_counts_as_none(tmp_path):
    journal = Journal(tmp_path)
    assert journal.load_deliveries() == {}
    first, second = Delivery("first", {"records": 7}, {"job": "run1"}), Delivery("second", {"files": 3})
    journal.save_delivery(first)
    journal.save_delivery(second)
    first.offsets["records"] = 9
    journal.save_delivery(first)
    assert Journal(tmp_path).load_deliveries() == {"first": first, "second": second}
    (tmp_path / "sent.json").write_text('[{"target": ')
    assert journal.load_deliveries() == {}


def test_a_journal_is_delivered_once_every_lane_is_at_its_end(tmp_path):
    journal = Journal(tmp_path)
    journal.append(metrics(0, loss=1.0))
    journal.append(metrics(1, loss=1.0))
    first, end = [entry.end for entry in journal.read_entries(0)]
    assert not journal.is_delivered(Delivery("t", {"records": end}))
    assert not journal.is_delivered(Delivery("t", {"records": end, "files": first}))
    assert journal.is_delivered(Delivery("t", {"records": end, "files": end}))
    (tmp_path / "journal.jsonl").open("ab").write(b'{"do": "met')  # a crash
    assert Journal(tmp_path).is_delivered(Delivery("t", {"records": end, "files": end}))


def test_files_are_copied_when_they_are_added(tmp_path):
    journal = Journal(tmp_path / "spool")
    original = tmp_path / "a.txt"
    original.write_text("then")
    folder = journal.add_file(original, name="b.txt")
    original.write_text("now")
    assert (journal.files / folder / "b.txt").read_text() == "then"
    journal.remove_file(folder)
    assert list(journal.files.iterdir()) == []


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_sends_and_a_dead_one_blocks_nobody(tmp_path):
    journal = Journal(tmp_path)
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert not journal.try_lock()
        process.kill()
    assert journal.try_lock()
    assert not Journal(tmp_path).try_lock()
    journal.unlock()
    assert Journal(tmp_path).try_lock()


def test_a_batch_holds_what_one_request_can_carry(tmp_path):
    journal = Journal(tmp_path)
    journal.append(metrics(0, loss=1.0))
    journal.append({"do": "params", "lane": "records", "run": "job", "values": {}})
    journal.append(metrics(0, run="other", loss=1.0))
    journal.append({"do": "close", "lane": "records", "run": "other"})
    journal.append({"do": "close", "lane": "records", "run": "job"})
    batches = [
        [(entry.record["do"], entry.record["run"]) for entry in batch]
        for batch in _group_batches(list(journal.read_entries(0)))
    ]
    assert batches == [
        [("metrics", "job"), ("params", "job")],
        [("metrics", "other")],
        [("close", "other")],
        [("close", "job")],
    ]


JOB = """
import sys
from pathlib import Path
from facscale.track.journal import hold_spool
with hold_spool(Path(sys.argv[1]), owner="the first job"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_job_logs_to_a_spool_and_a_dead_one_blocks_nobody(tmp_path):
    spool = tmp_path / "spool"
    arguments = [sys.executable, "-c", JOB, str(spool)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SpoolInUseError, match=r"^the first job$"), hold_spool(spool, owner="the second"):
            pytest.fail("two log to it")
        process.kill()
    with hold_spool(spool, owner="the second"):
        assert (spool / "owner").read_text() == "the second"
