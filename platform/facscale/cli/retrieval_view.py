"""How `facscale retrieve` shows its answers: a table for each query, and one contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from facscale.inference.embed import Embeddings
from facscale.report import figures


@dataclass(frozen=True)
class Face:
    """A stored frame or the face of a photo, aligned alike."""

    name: str
    image: np.ndarray  # [S, S, 3] uint8
    active: frozenset[int] | None = None  # AU numbers; None: not labelled
    identity: str | None = None  # None: a stranger to everybody
    video: str | None = None


@dataclass(frozen=True)
class Answer:
    """A frame that answers: its row among the embeddings, and its cosine similarity."""

    row: int
    similarity: float


def active(labels: Sequence[int] | np.ndarray, aus: Sequence[int]) -> frozenset[int] | None:
    """The AUs that are labelled 1; None where none is labelled at all."""
    if all(label < 0 for label in labels):
        return None
    return frozenset(au for au, label in zip(aus, labels, strict=True) if label == 1)


def table(face: Face, answers: Sequence[Answer], found: Embeddings, *, k: int) -> Table:
    """The answers to one face, the best one first."""
    few = f"no more than {len(answers)}: of each video one frame answers" if len(answers) < k else None
    title = Text(face.name, style="bold")
    if face.active is not None:
        title = Text.assemble(title, "  ", written(face.active, shared=frozenset()))
    drawn_up = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="", caption=few)
    for header in ("", "similarity", "identity", "video", "frame", *(["AUs (* as asked)"] if found.aus else [])):
        drawn_up.add_column(header, justify="right" if header in ("", "similarity", "frame") else "left")
    for rank, answer in enumerate(answers, 1):
        row = answer.row
        shown = active(found.au[row], found.aus)
        cells = [str(rank), f"{answer.similarity:.3f}", found.identity[row], found.video[row], str(found.frame[row])]
        last = [written(shown, shared=face.active or frozenset())] if found.aus else []
        drawn_up.add_row(*map(Text, cells), *last)
    return drawn_up


def written(shown: frozenset[int] | None, *, shared: frozenset[int]) -> Text:
    """Active AUs in one line, the shared ones marked."""
    if shown is None:
        return Text("not labelled", style="dim")
    words = [Text(f"AU{au}*", style="bold green") if au in shared else Text(f"AU{au}") for au in sorted(shown)]
    return Text(" ").join(words) if words else Text("no AU", style="dim")


def drawing(
    asked: Sequence[Face], answers: Sequence[Sequence[Answer]], pictures: Sequence[Sequence[Face]], *, title: str
) -> Figure:
    """The contact sheet: a row a query, below each answer its similarity, the AUs as asked, the other AUs."""
    rows, captions = [], []
    for face, nearby, shown in zip(asked, answers, pictures, strict=True):
        rows.append([face.image, *(answer.image for answer in shown)])
        wanted = face.active or frozenset()
        lines = [(face.name, plain(wanted), "")]
        for answer, other in zip(nearby, shown, strict=True):
            there = other.active or frozenset()
            lines.append((f"{answer.similarity:.3f}", plain(there & wanted), plain(there - wanted)))
        captions.append(lines)
    return figures.retrieved(rows, captions=captions, title=title)


def plain(aus: frozenset[int]) -> str:
    """As in "AU 6 12"; nothing for none."""
    return " ".join(["AU", *map(str, sorted(aus))]) if aus else ""
