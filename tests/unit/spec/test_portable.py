"""Specs for another machine: variables are resolved where the spec is read, and secrets are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from facscale.spec import Document, Job, SpecError, parse, read_spec
from facscale.spec.document import keep_variables
from facscale.spec.errors import SourceLocation
from facscale.spec.portable import dump_spec, find_variables, make_resolver

VARIABLES = {"FACSCALE_DATA": "s3://faces", "FACSCALE_RUNS": "s3://runs", "N": "3"}
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.fixture
def send(tmp_path, monkeypatch):
    """A function: the content of a spec that was sent to a machine with VARIABLES and read there."""

    def send_spec(path, *overrides):
        text = dump_spec(read_spec(path, overrides, resolve=keep_variables))
        there = tmp_path / "there" / "job.yaml"
        there.parent.mkdir(exist_ok=True)
        there.write_text(text)
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)
        return read_spec(there)

    return send_spec


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_means_the_same_there(path, send):
    there = send(path, "train.epochs=3")
    assert there.data == read_spec(path, ["train.epochs=3"]).data
    assert "extends" not in there.data


def test_numbers_and_texts_keep_their_kinds(tmp_path, send):
    path = tmp_path / "job.yaml"
    path.write_text(
        "method: {name: clp, note: '12', other: \"null\", rate: 1e-3}\n"
        "data:\n  threads: ${N}\n  prefetch: ${M:-7}\n  cache: \"${N}\"\n  unlabelled: '${FACSCALE_DATA}/a: #b'\n"
    )
    there = send(path)
    assert there.data["method"] == {"name": "clp", "note": "12", "other": "null", "rate": 0.001}
    assert there.data["data"] == {"threads": 3, "prefetch": 7, "cache": "3", "unlabelled": "s3://faces/a: #b"}


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="$\x85\u2028\u2029\ufeff")
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts.filter(len), inner, max_size=3),
)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True).filter(lambda key: key != "extends"), plain, max_size=4)
)
def test_any_content_survives(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "job.yaml"
    path.write_text(dump_spec(Document(data, {(): SourceLocation("job.yaml")})), encoding="utf-8")
    if data:  # an empty mapping is no spec
        assert read_spec(path).data == data


def test_another_machines_environment_resolves_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("FACES", "here")
    path = tmp_path / "job.yaml"
    path.write_text(
        "method: {name: clp}\ndata: {unlabelled: '${FACES}/a', labelled: '${NOWHERE}/b', cache: '${C:-/c}'}\n"
    )
    data = read_spec(path, resolve=make_resolver({"FACES": "there"})).data["data"]
    assert data == {"unlabelled": "there/a", "labelled": "${NOWHERE}/b", "cache": "/c"}
    named = {
        variable.name: (variable.default, variable.location.line)
        for variable in find_variables(read_spec(path, resolve=keep_variables))
    }
    assert named == {"FACES": (None, 2), "NOWHERE": (None, 2), "C": ("/c", 2)}


@pytest.mark.parametrize(
    "line",
    [
        "track: {tags: {aws_secret_access_key: wJalrXUtnFEMI}}",
        "track: {tags: {key: AKIAIOSFODNN7EXAMPLE}}",
        "track: {uri: 'https://ann:hunter2@mlflow.team.org'}",
        "track: {uri: '${MLFLOW_TRACKING_PASSWORD}'}",
        "track: {uri: 'https://mlflow?token=abcdef'}",
        "track: {tags: {note: 'password=hunter2'}}",
        "data: {cache: 'ghp_0123456789abcdefghij'}",
        "track: {tags: {pem: '-----BEGIN RSA PRIVATE KEY-----'}}",
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(tmp_path, line):
    path = tmp_path / "job.yaml"
    path.write_text(f"method: {{name: clp}}\n{line}\n")
    with pytest.raises(SpecError, match=r"job.yaml:2: .* holds .*remove it") as error:
        read_spec(path, resolve=keep_variables)
    assert not any(word in str(error.value) for word in ("wJalr", "AKIA", "hunter2", "abcdef", "ghp_", "BEGIN"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_our_jobs_hold_no_secrets(path):
    read_spec(path, resolve=keep_variables)


def test_words_that_resemble_secrets_are_accepted(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "method: {name: clp, tokens: 16, token_size: small}\n"
        "track: {tags: {note: 'secret sauce', place: 's3://token-store/keys', host: 'http://mlflow:5000'}}\n"
    )
    read_spec(path, resolve=keep_variables)


def test_storage_follows_the_environment(monkeypatch):
    document = Document({"method": {"name": "clp"}}, {(): SourceLocation("job.yaml")})
    monkeypatch.delenv("FACSCALE_RUNS", raising=False)
    assert parse(document, Job).cluster.storage == "~/facscale/runs"
    monkeypatch.setenv("FACSCALE_RUNS", "s3://runs")
    assert parse(document, Job).cluster.storage == "s3://runs"
    named = Document({"method": {"name": "clp"}, "cluster": {"storage": "/here"}}, document.locations)
    assert parse(named, Job).cluster.storage == "/here"
