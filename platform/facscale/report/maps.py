"""A picture of an embedding: frames as points in the plane, by action unit and by person (Li & Shan, CLP, Figures 6 and 7).

Where AUs are told from the person, frames with and without one lie apart while people lie mixed.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facscale.report.figures import COLOURS, INK, REFERENCE

PANELS = 5  # AUs that are shown, those that divide the frames most evenly
PEOPLE = 20  # as many colours can be told apart
COMPONENTS = 50  # before t-SNE, as its authors do
PERPLEXITY = 30.0
FEWEST = 12  # frames that a map makes sense of


def plane(features: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE of features [N, D], to [N, 2]; the same features, the same map. Raises ValueError for fewer than 12 frames."""
    from sklearn.decomposition import PCA  # here, for every trial's process would load it
    from sklearn.manifold import TSNE

    if len(features) < FEWEST:
        raise ValueError(f"a map needs at least {FEWEST} frames, here are {len(features)}")
    grain = np.random.default_rng(seed).normal(scale=1e-6, size=features.shape)  # what has collapsed can be drawn too
    fewer = PCA(min(COMPONENTS, *features.shape), random_state=seed).fit_transform(features + grain)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    found: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(fewer / fewer.std())
    return found


def embedding_map(
    points: np.ndarray, *, identity: np.ndarray, au: np.ndarray, aus: tuple[int, ...], title: str
) -> Figure:
    """Points [N, 2] coloured by person, and by whether an AU is there: identity [N], au [N, n] (-1: not labelled)."""
    chosen = most_even(au)
    figure = Figure(figsize=(3.1 * 3, 3.1 * -(-(1 + len(chosen)) // 3) + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    panels = [_panel(figure, number, of=1 + len(chosen)) for number in range(1 + len(chosen))]
    people, number = np.unique(identity, return_inverse=True)
    panels[0].set_title(f"{len(people)} people", loc="left", fontsize=10, color=INK)
    panels[0].scatter(points[:, 0], points[:, 1], c=number % PEOPLE, cmap="tab20", s=6, linewidths=0)
    for axes, column in zip(panels[1:], chosen, strict=True):
        axes.set_title(f"AU{aus[column]}", loc="left", fontsize=10, color=INK)
        for label, colour in ((0, REFERENCE), (1, COLOURS[0])):
            of = points[au[:, column] == label]
            axes.scatter(of[:, 0], of[:, 1], color=colour, s=6, linewidths=0, zorder=2 + label)
    return figure


def most_even(au: np.ndarray) -> list[int]:
    """The columns of labels [N, n] whose two classes are most alike in size, in the order of the columns; those with one are left out."""
    rarer = np.minimum((au == 0).sum(axis=0), (au == 1).sum(axis=0))
    best = np.argsort(-rarer, kind="stable")[:PANELS]
    return sorted(column for column in best.tolist() if rarer[column])


def _panel(figure: Figure, number: int, *, of: int) -> Axes:
    axes = figure.add_subplot(-(-of // 3), 3, number + 1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes
