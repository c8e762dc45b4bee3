"""A registered model for each method, a version for each run, and an alias for the best on each data set."""

from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from facscale.track import Tracker, registry


@pytest.fixture
def model(tmp_path):
    """A folder in MLflow's format; nothing loads it here."""
    folder = tmp_path / "model"
    folder.mkdir()
    kind = {"python_function": {"loader_module": "facscale"}}
    Model(metadata={"weights": "w"}, flavors=kind).save(str(folder / "MLmodel"))
    return folder


@pytest.fixture
def log_run(tmp_path, store, model):
    """A function that logs a run with an encoder, from a new spool each time."""
    spools = iter(range(100))

    def log_run(key, *, scores, name="clp", spool=None):
        tracker = Tracker(store, "bp4d", key=key, name=key, spool=tmp_path / f"spool{spool or next(spools)}")
        tracker.log_model(model)
        tracker.register_model(name, scores=scores, tags={"job": key}, description=f"about {key}")
        assert tracker.close()
        return tracker

    return log_run


def get_best_job(store, data, name="clp"):
    return MlflowClient(store).get_model_version_by_alias(name, f"best-{data}").tags["job"]


def test_aliases_name_the_best_and_the_newest_version_of_a_method(store, log_run):
    log_run("a", scores={"bp4d": 0.5, "disfa": 0.4})
    log_run("b", scores={"bp4d": 0.6, "disfa": 0.3})
    log_run("c", scores={"bp4d": 0.55, "disfa": float("nan")})
    log_run("other method", scores={"bp4d": 0.9}, name="moco")
    assert get_best_job(store, "bp4d") == "b"
    assert get_best_job(store, "disfa") == "a"
    assert get_best_job(store, "bp4d", name="moco") == "other method"
    client = MlflowClient(store)
    newest = client.get_model_version_by_alias("clp", "latest")
    assert newest.tags == {"job": "c", "facscale.key": "c", "f1/bp4d": "0.55"}
    assert newest.description == "about c"
    (model,) = client.search_logged_models([client.get_experiment_by_name("bp4d").experiment_id], "name = 'encoder'")[
        :1
    ]
    assert model.status == "READY"


def test_a_run_has_one_version_however_often_it_is_logged(store, log_run):
    log_run("a", scores={"bp4d": 0.5})
    log_run("b", scores={"bp4d": 0.4})
    log_run("b", scores={"bp4d": 0.4})  # from another spool: a resumed job, on a new node
    log_run("b", scores={"bp4d": 0.7})  # evaluated again
    versions = MlflowClient(store).search_model_versions("name = 'clp'")
    assert sorted(version.tags["job"] for version in versions) == ["a", "b"]
    assert get_best_job(store, "bp4d") == "b"


def test_equal_scores_leave_the_alias_unchanged(store, log_run):
    log_run("a", scores={"bp4d": 0.5})
    log_run("b", scores={"bp4d": 0.5})
    assert get_best_job(store, "bp4d") == "a"


def test_names_are_changed_to_what_mlflow_accepts(store, log_run):
    log_run("a", scores={"BP4D + DISFA, all/of it": 0.5}, name="my/method: 2")
    assert get_best_job(store, "BP4D-DISFA-all-of-it", name="my-method-2") == "a"


def test_a_run_without_a_model_has_nothing_to_register(tmp_path, store, caplog):
    tracker = Tracker(store, "bp4d", key="a", name="a", spool=tmp_path / "spool")
    tracker.register_model("clp", scores={"bp4d": 0.5})
    assert tracker.close()
    assert "has no model 'encoder' to register" in (tmp_path / "spool" / "refused.jsonl").read_text()


class Registry:
    """A registry in which another sender adds a better version just after an alias was moved."""

    def __init__(self, scores):
        self.scores, self.aliases, self.later = list(scores), {}, [0.9, 0.8]

    def get_registered_model(self, name):
        return SimpleNamespace(aliases=dict(self.aliases))

    def search_model_versions(self, query, max_results, page_token):
        start = int(page_token or 0)
        versions = [SimpleNamespace(version=n + 1, tags={"f1/bp4d": str(s)}) for n, s in enumerate(self.scores)]
        page = type("Page", (list,), {"token": str(start + 2) if start + 2 < len(versions) else None})
        return page(versions[start : start + 2])

    def set_registered_model_alias(self, name, alias, version):
        self.aliases[alias] = version
        if self.later:
            self.scores.append(self.later.pop(0))


def test_the_alias_is_checked_again_after_it_was_moved():
    registered = Registry([0.1, 0.5, 0.3])
    registry._update_best_alias(registered, "clp", data="bp4d")
    assert registered.aliases == {"best-bp4d": "4"}  # 0.9, which came while the alias was moved to version 2
