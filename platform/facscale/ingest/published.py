"""Compares what was read of a public data set with its published counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from facscale.data.published_sizes import PublishedCounts, find_counts
from facscale.ingest import layouts
from facscale.ingest.work_store import ItemStatus
from facscale.spec import Pipeline


def compare_published(pipeline: Pipeline, statuses: Sequence[ItemStatus]) -> tuple[str, ...]:
    """Return a note with each difference from the published counts; one that says so if there is none.

    Nothing is returned for rendered faces, and for data sets whose counts are not known.
    """
    counts = find_counts(layouts.open_layout(pipeline.source).published)
    if counts is None or pipeline.render is not None:
        return ()
    differences = list(_list_differences(counts, statuses))
    if not differences:
        return (f"as many as published: {counts.name} ({counts.source})",)
    return (f"published {counts.name} ({counts.source}): {'; '.join(differences)}",)


def count_positives(statuses: Sequence[ItemStatus]) -> dict[int, tuple[int, int]]:
    """Return (positive frames that were read, those of them that were left out) of each AU."""
    counts: dict[int, tuple[int, int]] = {}
    for status in statuses:
        for au, positive, lost in zip(status.au, status.positives, status.positives_lost, strict=True):
            before = counts.get(au, (0, 0))
            counts[au] = before[0] + positive, before[1] + lost
    return dict(sorted(counts.items()))


def _list_differences(counts: PublishedCounts, statuses: Sequence[ItemStatus]) -> Iterator[str]:
    is_stills = any(status.stills for status in statuses)
    videos = sum(status.images for status in statuses) if is_stills else len(statuses)
    here = {
        "people": len({status.identity for status in statuses}),
        "images" if is_stills else "videos": videos,
        "labelled frames": sum(status.label_rows for status in statuses),
    }
    for (name, value), published in zip(
        here.items(), (counts.people, counts.videos, counts.labelled_frames), strict=True
    ):
        if published is not None and value != published:
            yield f"{published:,} {name}, here {_format_difference(value, published)}"
    if counts.people is not None and here["people"] != counts.people:
        return  # positives of a part of the people compare with nothing
    for au, (positive, _) in count_positives(statuses).items():
        published = (counts.positives or {}).get(au)
        if published is not None and positive != published:
            yield f"{published:,} positives of AU{au}, here {_format_difference(positive, published)}"


def _format_difference(value: int, published: int) -> str:
    return f"{value:,} ({abs(value - published):,} {'more' if value > published else 'fewer'})"
