"""An embedding as a map: frames as points in the plane, by action unit and by person (Li & Shan, CLP, Figures 6 and 7).

Where an embedding separates AUs from identity, frames with and without an AU lie apart while people lie mixed.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facscale.report.figures import COLOURS, INK, REFERENCE

MAX_AUS = 5  # that are shown, those that divide the frames most evenly
MAX_PERSON_COLOURS = 20  # as many can be told apart
COMPONENTS = 50  # of PCA before t-SNE, as by its authors
PERPLEXITY = 30.0
MIN_FRAMES = 12  # fewer make no map
COLUMNS = 3  # panels side by side


def project_features(features: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE of features [N, D] to [N, 2]; the same features, the same map. Raises ValueError for fewer than 12 frames."""
    from sklearn.decomposition import PCA  # not on top: every trial's process would load it
    from sklearn.manifold import TSNE

    if len(features) < MIN_FRAMES:
        raise ValueError(f"a map needs at least {MIN_FRAMES} frames, here are {len(features)}")
    noise = np.random.default_rng(seed).normal(scale=1e-6, size=features.shape)  # collapsed features can be drawn too
    components = PCA(min(COMPONENTS, *features.shape), random_state=seed).fit_transform(features + noise)
    tsne = TSNE(perplexity=min(PERPLEXITY, (len(features) - 1) / 3), init="pca", random_state=seed)
    points: np.ndarray = tsne.fit_transform(components / components.std())
    return points


def plot_embedding_map(
    points: np.ndarray, *, identity: np.ndarray, au: np.ndarray, aus: tuple[int, ...], title: str
) -> Figure:
    """Points [N, 2] coloured by person, and by whether an AU is there: identity [N], au [N, n] (-1: not labelled)."""
    shown = select_balanced_aus(au)
    count = 1 + len(shown)
    figure = Figure(figsize=(3.1 * COLUMNS, 3.1 * -(-count // COLUMNS) + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    panels = [_add_panel(figure, number, count=count) for number in range(count)]
    people, person = np.unique(identity, return_inverse=True)
    panels[0].set_title(f"{len(people)} people", loc="left", fontsize=10, color=INK)
    panels[0].scatter(points[:, 0], points[:, 1], c=person % MAX_PERSON_COLOURS, cmap="tab20", s=6, linewidths=0)
    for axes, column in zip(panels[1:], shown, strict=True):
        axes.set_title(f"AU{aus[column]}", loc="left", fontsize=10, color=INK)
        for label, colour in ((0, REFERENCE), (1, COLOURS[0])):
            x, y = points[au[:, column] == label].T
            axes.scatter(x, y, color=colour, s=6, linewidths=0, zorder=2 + label)
    return figure


def select_balanced_aus(au: np.ndarray) -> list[int]:
    """Up to 5 columns of labels [N, n] whose two classes are most alike in size, in their order; none with a single class."""
    rarer = np.minimum((au == 0).sum(axis=0), (au == 1).sum(axis=0))
    best = np.argsort(-rarer, kind="stable")[:MAX_AUS]
    return sorted(column for column in best.tolist() if rarer[column])


def _add_panel(figure: Figure, number: int, *, count: int) -> Axes:
    axes = figure.add_subplot(-(-count // COLUMNS), COLUMNS, number + 1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes
