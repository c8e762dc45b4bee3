"""Files, inheritance, variables and overrides; every fault is an error with file, line and nearest key."""

from __future__ import annotations

import pytest

from facscale.spec import Job, Pipeline, SpecError, parse, read_spec


@pytest.fixture
def spec(tmp_path):
    def write(text, name="job.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def job(path, *overrides):
    return parse(read_spec(path, overrides), Job)


def test_a_child_overrides_its_parents_keys(spec):
    spec("method: {name: clp, margin: 0.5}\ntrain: {epochs: 7, optimizer: {lr: 0.1}}\n", "parent.yaml")
    child = job(spec("extends: parent.yaml\ntrain: {optimizer: {momentum: 0.5}}\n"))
    assert (child.train.epochs, child.train.optimizer.lr, child.train.optimizer.momentum) == (7, 0.1, 0.5)
    assert child.method.model_extra == {"margin": 0.5}


def test_another_method_drops_the_parents_options(spec):
    spec("method: {name: clp, margin: 0.5}\n", "parent.yaml")
    child = job(spec("extends: parent.yaml\nmethod: {name: moco}\n"))
    assert child.method.model_extra == {}


def test_overrides_apply_last_and_are_yaml(spec):
    path = spec("method: {name: clp}\ntrain: {epochs: 7}\n")
    result = job(path, "train.epochs=1e-1", "data.labelled=[/a, /b]", "method.margin=0.05")
    assert (result.train.epochs, result.data.labelled, result.method.model_extra) == (
        0.1,
        ("/a", "/b"),
        {"margin": 0.05},
    )


def test_numbers_as_yaml_1_2_reads_them(spec):
    assert job(spec("method: {name: clp}\ntrain: {optimizer: {lr: 1e-3}}\n")).train.optimizer.lr == 0.001


def test_variables(spec, monkeypatch):
    monkeypatch.setenv("FACES", "s3://faces")
    path = spec(
        "method: {name: clp}\ndata:\n  unlabelled: ${FACES}/vox\n  cache: ${NOWHERE:-/tmp/c}\n  threads: ${N:-3}\n"
    )
    data = job(path).data
    assert (data.unlabelled, data.cache, data.threads) == ("s3://faces/vox", "/tmp/c", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {name: clp}\ntrain:\n  epoch: 3\n", 'job.yaml:3: unknown key "train.epoch" (did you mean "epochs"?)'),
        (
            "method: {name: clp}\ndata:\n  augment:\n    rotaton: 1\n",
            'job.yaml:4: unknown key "data.augment.rotaton" (did you mean "rotation"?)',
        ),
        (
            "method: {name: clp}\ntrain: {epochs: many}\n",
            "job.yaml:2: \"train.epochs\": input should be a valid number, not 'many'",
        ),
        ("method: {name: clp}\ntrain: {batch_size: 6.5}\n", 'job.yaml:2: "train.batch_size"'),
        ("method: {name: clp}\ntrain: {batch_size: '64'}\n", 'job.yaml:2: "train.batch_size"'),
        (
            "method: {name: clp}\nevaluate:\n  threshold: 1.5\n",
            'job.yaml:3: "evaluate.threshold": input should be less than or equal to 1, not 1.5',
        ),
        ("method: {name: clp}\ncluster: {workers: 0}\n", 'job.yaml:2: "cluster.workers"'),
        ("method: {name: clp}\ncluster: {workers: [1, 2, 3]}\n", 'job.yaml:2: "cluster.workers"'),
        ("method: {name: clp}\ndata: {augment: {crop: [0.9, 0.8]}}\n", "crop must be [smallest, largest]"),
        (
            "method: {name: clp}\ndeepspeed: {gradient_clipping: 1}\n",
            "deepspeed.gradient_clipping is set from train.clip",
        ),
        ("method: {name: clp}\ninputs: {fan: {stage: fan}}\n", 'inputs.fan names the stage "fan"'),
        ("train: {}\n", '"method" is missing'),
        ("method: {name: clp}\nmethod: {name: clp}\n", 'job.yaml:2: "method" is written twice'),
        ("method: {name: clp\n", "job.yaml:2: not valid YAML"),
        ("- a\n- b\n", "a spec must be a mapping"),
        ("method: !!python/object:os.system {name: clp}\n", "tag"),
        ("method: {name: !evil clp}\n", "tag"),
        ("method: {name: '${NOBODY_SET_THIS}'}\n", "job.yaml:1: the environment variable NOBODY_SET_THIS is not set"),
        ("extends: missing.yaml\n", "missing.yaml: there is no such file"),
    ],
)
def test_an_error_gives_file_line_and_key(spec, text, message):
    with pytest.raises(SpecError) as error:
        job(spec(text))
    assert message in str(error.value)


def test_every_fault_is_listed_at_once(spec):
    with pytest.raises(SpecError) as error:
        job(spec("method: {name: clp}\ntrain: {epoch: 1}\ndat: {}\n"))
    assert len(str(error.value).splitlines()) == 2


def test_a_fault_of_the_parent_names_the_parent(spec):
    spec("method: {name: clp}\ntrain: {epoch: 1}\n", "parent.yaml")
    with pytest.raises(SpecError, match=r"parent\.yaml:2"):
        job(spec("extends: parent.yaml\n"))


def test_a_fault_of_an_override_names_the_command_line(spec):
    with pytest.raises(SpecError, match=r"command line \(train\.epoch=1\): unknown key"):
        job(spec("method: {name: clp}\n"), "train.epoch=1")


def test_circular_extends_are_refused(spec):
    spec("extends: job.yaml\n", "parent.yaml")
    with pytest.raises(SpecError, match=r"circle: job\.yaml -> parent\.yaml -> job\.yaml"):
        read_spec(spec("extends: parent.yaml\n"))


def test_an_alias_bomb_is_refused(spec):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(SpecError, match="aliases nested"):
        read_spec(spec("\n".join(lines)))


def test_a_baseline_is_a_patch_over_the_same_spec(spec):
    path = spec(
        "method: {name: clp}\ntrain: {epochs: 7, batch_size: 8}\nevaluate:\n  baselines:\n    random:\n      train: {epochs: 0}\n"
    )
    document = read_spec(path).apply_patch(("evaluate", "baselines", "random"))
    baseline = parse(document, Job)
    assert (baseline.train.epochs, baseline.train.batch_size) == (0, 8)
    assert document.source_location(("train", "epochs")).line == 6


def test_pipelines_are_as_strict(spec):
    text = "source: {layout: bp4d, root: a}\noutput: b\ncrop: {sise: 3}\n"
    with pytest.raises(SpecError, match='did you mean "size"'):
        parse(read_spec(spec(text)), Pipeline)


def test_an_override_replaces_a_value_whose_variable_is_unset(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("method: {name: clp}\ndata: {unlabelled: '${NOBODY_SET_THIS}/faces'}\n")
    assert read_spec(path, ["data.unlabelled=/faces"]).data["data"]["unlabelled"] == "/faces"


@pytest.mark.parametrize("value", ["/data/faces #2", "#2", "/data/a #2 #3"])
def test_a_value_of_the_command_line_has_no_comments(spec, value):
    assert job(spec("method: {name: clp}\n"), f"track.experiment={value}").track.experiment == value


def test_a_variable_may_hold_a_hash(spec, monkeypatch):
    monkeypatch.setenv("FACES", "/data/faces #2")
    assert job(spec("method: {name: clp}\ndata:\n  unlabelled: ${FACES}/a\n")).data.unlabelled == "/data/faces #2/a"
    assert job(spec("method: {name: clp}\n"), "data.unlabelled=${FACES}/a #3").data.unlabelled == "/data/faces #2/a #3"
    assert job(spec("method: {name: clp}\ndata:\n  unlabelled: /data/a # here\n")).data.unlabelled == "/data/a"
