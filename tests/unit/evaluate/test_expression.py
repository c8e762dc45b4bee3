import numpy as np
import pytest
import torch
from torch import nn

from faces import make_track, write_expression_data_set, write_tracks
from facscale.data import DataError
from facscale.evaluate.expression import (
    ConfusionMatrix,
    ExpressionDataset,
    evaluate_expression_probe,
    fit_expression_probe,
)
from facscale.nn.heads import LinearProbe
from facscale.spec.models import Probe

CLASSES = ("calm", "glad", "wild")


def some(faces=37, *, seed=0):
    random = np.random.default_rng(seed)
    expression = random.choice([-1, 0, 1, 2], faces, p=[0.1, 0.6, 0.2, 0.1]).astype(np.int8)
    features = random.normal(size=(faces, 5)) + 2 * np.eye(4, 5)[expression]
    return features.astype(np.float32), expression


def test_the_probe_is_a_plain_loop():
    features, expression = some()
    probe = Probe(epochs=3, batch_size=8, lr=0.02, weight_decay=0.01)
    found = fit_expression_probe(features, expression=expression, classes=3, probe=probe, seed=4)
    known = np.flatnonzero(expression >= 0)
    x, y = torch.from_numpy(features[known]), expression[known].astype(int).tolist()
    torch.manual_seed(4)
    model = LinearProbe(dim=5, aus=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=0.01)
    random = torch.Generator().manual_seed(4)
    for _ in range(3):
        order = torch.randperm(len(y), generator=random).tolist()
        for start in range(0, len(y), 8):
            rows = order[start : start + 8]
            if len(rows) == 1:
                continue
            probability = torch.exp(model(x[rows]))
            loss = torch.zeros(())
            for face, row in enumerate(rows):
                share = probability[face, y[row]] / probability[face].sum()
                loss = loss - len(y) / (3 * y.count(y[row])) * torch.log(share) / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not found.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_rare_classes_weigh_as_much_as_frequent_ones():
    """Two classes that cannot be told apart: of 9 to 1, each is said half of the time."""
    random = np.random.default_rng(0)
    features = random.normal(size=(4000, 2)).astype(np.float32)
    expression = (random.random(4000) < 0.1).astype(np.int8)
    probe = fit_expression_probe(features, expression=expression, classes=2, probe=Probe(epochs=10), seed=0)
    logits = probe(torch.from_numpy(features)).detach()
    assert logits.softmax(dim=1).mean(dim=0).numpy() == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_class_that_nobody_shows_in_training_is_no_obstacle():
    features, expression = some()
    expression[expression == 1] = 0
    probe = fit_expression_probe(features, expression=expression, classes=3, probe=Probe(epochs=2), seed=0)
    assert all(bool(value.isfinite().all()) for value in probe.state_dict().values())
    with pytest.raises(ValueError, match="at least 2 faces with an expression, here are 1"):
        fit_expression_probe(features[:2], expression=np.array([1, -1]), classes=3, probe=Probe(), seed=0)


def test_the_process_own_generator_is_left_alone():
    features, expression = some()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit_expression_probe(features, expression=expression, classes=3, probe=Probe(epochs=1), seed=9)
    assert torch.equal(torch.rand(3), expected)


class Given(nn.Module):
    """Says what its input says."""

    def forward(self, x):
        return x


def test_a_confusion_worked_by_hand():
    said = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 2, 2, 0, 1]]
    truth = np.array([0, 0, 0, 0, 2, 2, 2, -1], np.int8)
    found = evaluate_expression_probe(Given(), features=said, expression=truth, classes=CLASSES)
    assert found.counts.tolist() == [[2, 1, 1], [0, 0, 0], [1, 0, 2]]
    assert found.accuracy == pytest.approx(4 / 7)
    np.testing.assert_allclose(found.row_shares, [[0.5, 0.25, 0.25], [np.nan] * 3, [1 / 3, 0, 2 / 3]])
    assert found.mean_class_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.to_metrics() == pytest.approx(
        {"accuracy": 4 / 7, "mean_class_accuracy": 7 / 12, "calm": 0.5, "wild": 2 / 3}
    )


def test_the_average_is_that_of_the_papers_table():
    """CLP's row of its Table V, on RAF-DB's test images: the mean of its classes, whatever their sizes."""
    by_class = {
        "neutral": 63.5,
        "anger": 60.9,
        "disgust": 48.3,
        "fear": 52.3,
        "happy": 86.8,
        "sad": 46.5,
        "surprise": 77.8,
    }
    faces = np.array([680, 162, 160, 74, 1185, 478, 329]) * 1000
    right = np.round(faces * np.array(list(by_class.values())) / 100).astype(np.int64)
    counts = np.diag(right) + np.roll(np.diag(faces - right), 1, axis=1)
    told = ConfusionMatrix(tuple(by_class), counts)
    assert told.mean_class_accuracy == pytest.approx(0.623, abs=5e-4)
    assert told.accuracy == pytest.approx(0.70, abs=0.01)


def test_a_set_tells_its_faces_parts_and_classes(tmp_path):
    url = write_expression_data_set(str(tmp_path / "moods"), CLASSES, train=3, test=2).url
    data = ExpressionDataset.open(url)
    assert (data.name, data.classes, len(data)) == ("moods", CLASSES, 15)
    assert data.expression.tolist() == [0, 1, 2] * 5
    assert data.test.tolist() == [False] * 9 + [True] * 6
    rows = data.find_rows(
        identity=np.array(["id00012", "id00003"]), video=np.array(["v0", "v0"]), frame=np.array([0, 0], np.int32)
    )
    assert rows.tolist() == [12, 3]


def test_a_set_without_expressions_or_without_a_part_says_so(tmp_path):
    plain = write_tracks(str(tmp_path / "plain"), [make_track(0, frames=[0])])
    with pytest.raises(DataError, match=r"plain \(evaluate.expressions\) has no expressions; make it from"):
        ExpressionDataset.open(plain.url)
    half = write_expression_data_set(str(tmp_path / "half"), test=0)
    with pytest.raises(DataError, match="no face with an expression in its part 'test'"):
        ExpressionDataset.open(half.url)
