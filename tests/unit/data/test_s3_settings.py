"""The AWS_ variables: what they change, and what an error says about them."""

from __future__ import annotations

import pytest

from facscale.data import s3, storage
from facscale.errors import UserError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in s3.list_variables():
        monkeypatch.delenv(name)
    monkeypatch.delenv(s3.DRIVER_VARIABLE, raising=False)


def test_the_same_variables_serve_both_clients(monkeypatch):
    assert s3.build_fsspec_options("s3://bucket/x") == {}
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTING", "false")
    assert s3.build_fsspec_options("s3://bucket/x") == {
        "anon": True,
        "requester_pays": True,
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    assert s3.build_fsspec_options("/local") == {}
    system, path = storage.open_fsspec("s3://bucket/x")
    assert (system.anon, path) == (True, "bucket/x")
    assert system.req_kw == {"RequestPayer": "requester"}


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_NO_SIGN_REQUEST", "maybe"), ("AWS_VIRTUAL_HOSTING", "path"), ("AWS_REQUEST_PAYER", "me")]
)
def test_a_value_without_a_meaning_is_refused(monkeypatch, name, value):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name} is '{value}'"):
        storage.Folder("s3://bucket/x")


def test_an_error_names_the_worker_and_what_it_lacks(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert "has AWS_REGION" in s3.describe_variables()
    monkeypatch.setenv(s3.DRIVER_VARIABLE, "AWS_ENDPOINT_URL AWS_REGION AWS_SECRET_ACCESS_KEY")
    assert "lacks AWS_ENDPOINT_URL, AWS_SECRET_ACCESS_KEY, which the driver has" in s3.describe_variables()
