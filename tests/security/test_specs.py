"""Untrusted specs: a file that is not small, finite and of plain values is refused with its line, and runs no code."""

from __future__ import annotations

import time

import pytest

from facscale.ingest import detectors, layouts
from facscale.methods import configure
from facscale.spec import Job, Pipeline, SpecError, parse, read_spec

CLP = "method: {name: clp}\n"
TENFOLD = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 6)]
BOMB_IN_A_KEY = "\n".join(["a0: &a0 [x, x]", *TENFOLD, "? *a5", ": 1"])


@pytest.fixture
def spec(tmp_path):
    def write(text, name="job.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 20_000, "job.yaml: nested more than"),
        ("\n".join(" " * depth + "a:" for depth in range(600)), "job.yaml: nested more than"),
        ("a: &a [*a]\n", "job.yaml:1: nested more than"),
        ("a: &a {b: *a}\n", "job.yaml:1: nested more than"),
        (BOMB_IN_A_KEY, "expands to more than"),
        ("? [a, b]\n: 1\n", "job.yaml:1: a key must be a single word"),
        ("a: " + "x" * 300_000, "larger than 256 kB"),
        (CLP + "seed: " + "9" * 5000, "job.yaml:2: '9999"),
        ("a: \x00\n", "not valid YAML: unacceptable character"),
        ("a: !!python/object/apply:os.system [id]\n", "job.yaml:1: the tag tag:yaml.org,2002:python/object/apply"),
        ("!!python/name:os.system a: 1\n", "job.yaml:1: the tag tag:yaml.org,2002:python/name:os.system"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "job.yaml:2: the tag tag:yaml.org,2002:merge"),
        ('extends: "a\\0b"\n', "cannot be read: embedded null byte"),
        ("extends: /dev/zero\n", "/dev/zero: larger than 256 kB"),
    ],
    ids=lambda part: part[:24],
)
def test_unsafe_files_are_refused(spec, text, message):
    with pytest.raises(SpecError) as error:
        parse(read_spec(spec(text)), Job)
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("word", ["a=&a [*a]", "a=!!python/object/apply:os.system [id]", "a=" + "[" * 5000])
def test_overrides_are_read_as_strictly(spec, word):
    with pytest.raises(SpecError, match="^command line") as error:
        read_spec(spec(CLP), [word])
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "name", ["os.system", "os:system", "../methods/clp", "base", "export", "facscale.nn.resnet", ""]
)
def test_a_method_must_be_ours_or_an_installed_plug_in(spec, name):
    with pytest.raises(SpecError, match="there is no method"):
        configure(read_spec(spec(f'method: {{name: "{name}"}}\n')))


@pytest.mark.parametrize("name", ["os.system", "../dlib", "base", "cv2:imread"])
def test_a_detector_must_be_ours_or_an_installed_plug_in(spec, name):
    text = f'source: {{layout: videos, root: /videos}}\noutput: /faces\ndetector: {{name: "{name}"}}\n'
    with pytest.raises(SpecError, match="there is no detector"):
        detectors.parse_options(parse(read_spec(spec(text)), Pipeline))


@pytest.mark.parametrize("name", ["os.path", "../bp4d", "base", "facscale.ingest.images", ""])
def test_a_layout_must_be_ours_or_an_installed_plug_in(spec, name):
    document = read_spec(spec(f'source: {{layout: "{name}", root: /videos}}\noutput: /faces\n'))
    with pytest.raises(SpecError, match="there is no layout"):
        layouts.open_layout(parse(document, Pipeline).source)
    with pytest.raises(SpecError, match="there is no layout"):
        layouts.check_source(document)


def test_an_entry_point_that_is_not_a_method_is_refused(spec, plugins):
    with pytest.raises(SpecError, match="is not a facscale Method"):
        configure(read_spec(spec("method: {name: not-a-method}\n")))


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("{torch_autocast: {enabled: true, lower_precision_safe_modules: [os.system]}}", "names code"),
        ("{compile: {enabled: true, backend: os.system}}", "names code"),
        ("{flops_profiler: {enabled: true, output_file: /etc/cron.d/x}}", "writes a file"),
        ("{autotuning: {enabled: true}}", "starts programs"),
    ],
)
def test_a_deepspeed_block_cannot_name_code_or_files(spec, block, key):
    with pytest.raises(SpecError, match=key):
        parse(read_spec(spec(f"{CLP}deepspeed: {block}\n")), Job)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "a\\b", 'a"b', "a\nb", "x" * 101, "-rf"])
@pytest.mark.parametrize("place", ["name", "row", "stage"])
def test_names_unfit_for_titles_and_folders_are_refused(tmp_path, name, place):
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    text = {
        "name": f'name: "{quoted}"\n',
        "row": f'evaluate: {{baselines: {{"{quoted}": {{seed: 1}}}}}}\n',
        "stage": f'stages: {{"{quoted}": {{seed: 1}}}}\n',
    }[place]
    (tmp_path / "job.yaml").write_text(CLP + text)
    with pytest.raises(SpecError, match="a name must begin with a letter or digit"):
        parse(read_spec(tmp_path / "job.yaml"), Job)


@pytest.mark.parametrize(
    "uri",
    ["https://anna:hunter2@mlflow.team.org", "postgresql+psycopg2://ml:hunter2@db/mlflow", "s3://key:hunter2@faces"],
)
def test_a_password_is_refused(spec, monkeypatch, uri):
    monkeypatch.setenv("WHERE", uri)
    for text in (f'track: {{uri: "{uri}"}}\n', "track: {uri: '${WHERE}'}\n", "data: {labelled: ['${WHERE}']}\n"):
        with pytest.raises(SpecError, match=r"job\.yaml:2: .* holds what looks like a secret") as error:
            read_spec(spec(CLP + text))
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "PGPASSWORD"])
def test_a_secret_variable_is_refused(spec, monkeypatch, name):
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(SpecError, match=rf"job\.yaml:2: the variable {name} holds a secret") as error:
        read_spec(spec(CLP + f"track: {{tags: {{note: 'x ${{{name}}}'}}}}\n"))
    assert "hunter2" not in str(error.value)


def test_a_variable_with_an_invalid_value_is_refused(spec, monkeypatch):
    monkeypatch.setenv("WHERE", "!!python/object/apply:os.system [id]")
    with pytest.raises(SpecError, match=r"job\.yaml:2: '\$\{WHERE\}' is not a valid value"):
        read_spec(spec(CLP + "seed: ${WHERE}\n"))


def test_a_long_value_is_searched_for_secrets_in_time(spec):
    """In quadratic time, this one takes minutes."""
    began = time.process_time()
    read_spec(spec("method: {name: clp}\nname: " + "eyJ-" * 60_000))
    assert time.process_time() - began < 30
