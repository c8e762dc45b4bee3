"""Pictures of a trained row, on the people that the first fold tests."""

from __future__ import annotations

import numpy as np
import pytest

from faces import write_face_data_set
from facscale.evaluate.protocol import LabelledDataset, build_groups
from facscale.inference import export
from facscale.inference.embed import Embeddings
from facscale.job import evaluator, model_plots
from facscale.job.evaluator import Evaluator
from facscale.job.plan import EvalNode
from facscale.job.variants import expand_variants
from facscale.methods import DataFacts
from facscale.spec import read_spec

CLP = "{name: clp, depth: 18, width: 4}"
SUPERVISED = "{name: supervised, depth: 18, width: 4}"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A row of a method, its one group, and an export of it; features are made up."""
    write_face_data_set(str(tmp_path / "coded"), [12] * 9, au=(1, 2, 12), name="coded")

    def make(method, **evaluate):
        words = [f"evaluate.{name}={value}" for name, value in evaluate.items()]
        file = tmp_path / "job.yaml"
        file.write_text(f"method: {method}\ndata: {{labelled: [{tmp_path}/coded], image_size: 64}}\n")
        (row,) = expand_variants(read_spec(file, words), name="main")
        (part,) = build_groups(row.job, [LabelledDataset.open(str(tmp_path / "coded"), evaluate=row.job.evaluate)])
        data = part.sets[0]
        facts = DataFacts(aus=data.aus, label_weights=((1.0,) * 3,) * 2, image_size=64)
        exported = export.save_export(export.build_method(row.job.method.name, row.config, facts))
        return row, part, exported

    def made_up(model, on, *, job, subjects=None):
        random = np.random.default_rng(0)
        return Embeddings(
            features=random.normal(size=(len(on.au), model.dim)).astype(np.float32), identity=on.identity,
            video=np.full(len(on.au), "v0"), frame=np.tile(np.arange(12, dtype=np.int32), 9), au=on.au, aus=on.aus,
        )  # fmt: skip

    for module in (evaluator, model_plots):
        monkeypatch.setattr(module, "embed_frames", made_up)
    return make


def test_the_map_shows_the_first_folds_test_people(world):
    row, part, exported = world(CLP, map_frames=20)
    figure = model_plots.plot_embedding(exported, part.sets[0], variant=row).figures["map_coded"]
    assert figure.axes[0].get_title(loc="left") == "3 people"
    assert 12 <= len(figure.axes[0].collections[0].get_offsets()) <= 20
    row, part, exported = world(CLP, map_frames=0)
    assert not model_plots.plot_embedding(exported, part.sets[0], variant=row).figures


@pytest.mark.parametrize(("method", "protocol"), [(CLP, "linear-probe"), (SUPERVISED, "end-to-end")])
def test_attention_is_of_people_that_are_tested(world, method, protocol):
    row, part, exported = world(method, attention_faces=3)
    node = EvalNode(row, part, protocol, ("model",))
    report = model_plots.plot_attention(node, exported, evaluator=Evaluator())
    cells = [axes for axes in report.figures["attention_coded"].axes if axes.images]
    assert len(cells) == 3 * (1 + 3)
    model = Evaluator().build_first_model(node, exported)
    shown = model_plots.read_expressive_faces(model, part.sets[0], variant=row)
    people = sorted(set(part.sets[0].identity))
    seen = {people[number] for number in shown.face.identity.tolist()}
    assert len(seen) == 3, "each face is another person's"
    assert seen <= part.sets[0].split[0].test


def test_aus_that_are_seen_most_are_shown_in_their_order():
    au = np.array([[0, 1, -1, 1], [0, 1, -1, 0]], np.int8)
    assert model_plots.choose_frequent_aus(au) == [0, 1, 3]
    assert model_plots.choose_frequent_aus(np.repeat(au, 3, axis=1)) == [3, 4, 5, 9, 10, 11]


def test_different_people_come_first():
    np.testing.assert_array_equal(
        model_plots.put_identities_first(np.array([4, 2, 0, 1, 3]), np.array([7, 7, 5, 5, 5])), [4, 0, 2, 1, 3]
    )
