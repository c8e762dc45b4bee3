"""Published counts of data sets."""

from __future__ import annotations

import numpy as np
import pytest

from facscale.data.published_sizes import BP4D_AUS, BP4D_POSITIVES, DISFA_AUS, DISFA_POSITIVES, find_counts, find_size

# Files BP4D_weight_fold1.txt to DISFA_weight_fold3.txt of CVI-SZU/ME-GraphAU: a row for the training part of each fold.
BP4D_WEIGHTS = """
1.342985 1.689665 1.248091 0.561356 0.433044 0.435894 0.457287 0.541004 1.408054 0.722762 1.493145 1.666711
1.191051 1.337315 1.246995 0.558933 0.468168 0.418041 0.440099 0.581900 1.670360 0.774237 1.586367 1.726535
1.132895 1.519623 1.308560 0.552098 0.507140 0.443118 0.474432 0.535111 1.496040 0.749851 1.582501 1.698632
"""
DISFA_WEIGHTS = """
1.422290 2.347771 0.399672 0.795021 1.878217 0.440125 0.195583 0.521322
1.390215 1.469573 0.527298 1.034498 1.672842 0.656650 0.303915 0.945009
1.510590 1.560063 0.475896 0.884891 1.656857 0.570937 0.277589 1.063177
"""


@pytest.mark.parametrize(
    ("weights", "positives"), [(BP4D_WEIGHTS, BP4D_POSITIVES), (DISFA_WEIGHTS, DISFA_POSITIVES)], ids=["BP4D", "DISFA"]
)
def test_positives_agree_with_the_published_weights_of_the_folds(weights, positives):
    # A weight is s / (positives of the training part), with one s for each fold; each frame is in two training parts.
    weights = np.array([line.split() for line in weights.strip().splitlines()], float)
    scale, *_ = np.linalg.lstsq(1 / weights.T, 2.0 * np.array(positives), rcond=None)
    rarest = weights.argmax(axis=1)[:, None]
    count = (scale[:, None] / np.take_along_axis(weights, rarest, axis=1)).round()
    parts = count * np.take_along_axis(weights, rarest, axis=1) / weights  # positives of each training part
    np.testing.assert_allclose(parts, parts.round(), atol=0.1)  # the weights have six decimals
    assert parts.round().sum(axis=0).tolist() == [2 * positive for positive in positives]


def test_positives_are_those_of_the_evaluated_aus():
    assert find_counts("BP4D").positives.keys() == set(BP4D_AUS)
    assert find_counts("DISFA").positives.keys() == set(DISFA_AUS)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/bp4d_flow", "BP4D"),
        ("/data/BP4D/", "BP4D"),
        ("/data/BP4D+", None),
        ("/data/bp4dplus_crops", None),
        ("/data/disfa", "DISFA"),
        ("/data/disfa_plus", None),
        ("s3://bucket/voxceleb2-v3", "VoxCeleb2"),
        ("/data/own", None),
    ],
)
def test_the_size_of_a_url_is_that_of_the_longest_name_at_its_beginning(url, name):
    size = find_size(url)
    assert (size and size.name) == name
