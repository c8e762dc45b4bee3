"""A sender that loses a race with another sender loses no record: the error is not a refusal."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.store.tracking.dbmodels.models import SqlMetric, SqlParam
from sqlalchemy import Column, Integer, String, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, declarative_base

from facscale.track import client, race
from facscale.track.client import RecordClient, RecordRefusedError

TIME = 1_700_000_000_000


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(race, "BASE_PAUSE_S", 0.0)


@contextmanager
def race_against(rival):
    """Call `rival` with a table's class just before a session first inserts rows of that table."""
    tables = set()

    def overtake(session, *_):
        for kind in {type(row) for row in session.new} & {SqlMetric, SqlParam} - tables:
            tables.add(kind)
            rival(kind)

    event.listen(Session, "before_flush", overtake)
    try:
        yield tables
    finally:
        event.remove(Session, "before_flush", overtake)


def records(**values):
    common = {"run": "job", "time": TIME, "lane": "records"}
    return [
        {"do": "params", "values": {"lr": "0.1"}, **common},
        {"do": "metrics", "values": values, "step": 3, **common},
    ]


@pytest.fixture
def attached(store, tmp_path):
    """A client whose run is from an earlier process, so that it asks for steps before it sends them."""
    runs = {}
    attach = {"do": "run", "run": "job", "time": TIME, "name": "clp", "parent": None, "tags": {}}
    RecordClient(store, experiment="raced", runs=runs).send([attach], files=tmp_path)
    return RecordClient(store, experiment="raced", runs=runs), runs["job"]


def test_a_batch_that_loses_each_of_its_races_is_still_sent(store, tmp_path, attached):
    sender, run = attached
    api = MlflowClient(store)

    def rival(kind):
        if kind is SqlParam:
            api.log_batch(run, params=[Param("lr", "0.1")])
        else:
            api.log_batch(run, metrics=[Metric("loss", 1.0, TIME, 3)])

    with race_against(rival) as tables:
        sender.send(records(loss=1.0, std=2.0), files=tmp_path)
    assert tables == {SqlMetric, SqlParam}
    data = api.get_run(run).data
    assert data.metrics == {"loss": 1.0, "std": 2.0}
    assert data.params["lr"] == "0.1"
    assert [point.step for point in api.get_metric_history(run, "loss")] == [3]


def test_another_value_than_the_faster_senders_is_refused(store, tmp_path, attached):
    sender, run = attached
    rival = MlflowClient(store)

    with (
        race_against(lambda kind: kind is SqlParam and rival.log_batch(run, params=[Param("lr", "0.2")])),
        pytest.raises(RecordRefusedError, match="Changing param values is not allowed"),
    ):
        sender.send(records(loss=1.0), files=tmp_path)


base = declarative_base()


class Row(base):
    __tablename__ = "rows"
    key = Column(Integer, primary_key=True)
    text = Column(String)


def insert_twice(session, _row):
    session.execute(Row.__table__.insert().values(key=1))


def update_after_deletion(session, row):
    session.execute(Row.__table__.delete(), execution_options={"synchronize_session": False})
    row.text = "new"
    session.flush()


def read_after_deletion(session, row):
    session.execute(Row.__table__.delete())
    session.expire(row)
    return row.text


def insert_a_list(session, _row):
    session.execute(Row.__table__.insert().values(key=2, text=["a list"]))


@pytest.fixture
def fault(request):
    """The error that SQLAlchemy raises when a function misuses a real SQLite database with one row."""
    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    with Session(engine) as session:
        row = Row(key=1, text="old")
        session.add(row)
        session.commit()
        with pytest.raises(SQLAlchemyError) as caught:
            request.param(session, row)
    engine.dispose()
    return caught.value


@pytest.mark.parametrize("code", [BAD_REQUEST, INTERNAL_ERROR])  # log_batch makes the latter of what it meets itself
@pytest.mark.parametrize("fault", [insert_twice, update_after_deletion, read_after_deletion], indirect=True)
def test_a_databases_error_for_the_second_sender_is_a_race(fault, code):
    assert race.is_race(MlflowException(fault, code))


@pytest.mark.parametrize(
    "text",
    [
        "(psycopg2.errors.DeadlockDetected) deadlock detected\nDETAIL:  Process 7 waits for ShareLock",
        '(pymysql.err.OperationalError) (1213, "Deadlock found when trying to get lock")',
        "(psycopg2.errors.SerializationFailure) could not serialize access due to concurrent update",
        "(sqlite3.OperationalError) database is locked",
        "Model Version creation error (name=clp). Giving up after 3 attempts.",
        "Failed to set tags with given within 3 retries. Keys: ['row']",
    ],
)
def test_a_servers_error_for_conflicting_transactions_is_a_race(text):
    assert race.is_race(MlflowException(text, TEMPORARILY_UNAVAILABLE))


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("(sqlite3.OperationalError) no such table: runs", TEMPORARILY_UNAVAILABLE),
        MlflowException("Changing param values is not allowed.", ErrorCode.Value("INVALID_PARAMETER_VALUE")),
        MlflowException("API request to /api/2.0/mlflow/runs/log-batch failed with exception: Connection refused"),
        RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "too many requests"}),
    ],
    ids=lambda error: error.error_code,
)
def test_other_errors_are_not_races(error):
    assert not race.is_race(error)


@pytest.mark.parametrize("fault", [insert_a_list], indirect=True)
def test_a_value_that_the_database_rejects_is_not_a_race(fault):
    assert not race.is_race(MlflowException(fault, BAD_REQUEST))


@pytest.mark.parametrize(
    ("error", "attempts", "expected_error"),
    [
        (RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "too many"}), 1, RestException),
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "bad name"}), 2, RecordRefusedError),
        # a race without end
        (MlflowException("sqlalche.me/e/21/gkpj", BAD_REQUEST), race.MAX_ATTEMPTS + 1, RecordRefusedError),
        (MlflowException("deadlock detected", TEMPORARILY_UNAVAILABLE), race.MAX_ATTEMPTS, MlflowException),
    ],
)
def test_how_often_a_record_is_sent(monkeypatch, tmp_path, error, attempts, expected_error):
    calls = []

    def answer(*_, **__):
        calls.append(1)
        raise error

    monkeypatch.setattr(client, "get_or_create_experiment", answer)
    with pytest.raises(expected_error):
        RecordClient("http://127.0.0.1:9", experiment="raced", runs={}).send(records(loss=1.0), files=tmp_path)
    assert len(calls) == attempts
