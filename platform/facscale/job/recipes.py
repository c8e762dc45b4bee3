"""Compares how the data sets of a job were cropped: an encoder does worse on crops unlike those that it has learned from.

What is compared stands in the manifests of data sets that a pipeline wrote. Other data sets are left out: how they were
cropped is not known. Options of a detector that choose faces rather than place them, such as `smallest_face`, make no
difference.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from facscale.data import DataError, Dataset, augment
from facscale.job.variants import Variant, expand_stages
from facscale.spec.models import Augment
from facscale.spec.pipelines import Crop

log = logging.getLogger(__name__)
UNALIGNED = "none"  # the detector that leaves the crops of others as they are


@dataclass(frozen=True)
class CropRecipe:
    """What determines where the face lies in the crops of a data set."""

    detector: str
    weights: str  # a detector's own; "" for those that come with it
    version: int  # of the pipeline
    eyes_y: float
    eyes_distance: float

    @classmethod
    def read(cls, recipe: dict[str, Any]) -> Self | None:
        """Read it from a manifest's recipe, which may be anything; None if a pipeline did not write that."""
        detector = recipe.get("detector")
        if not isinstance(detector, dict) or not isinstance(recipe.get("version"), int):
            return None
        try:
            crop = Crop.model_validate(recipe.get("crop"))
        except ValidationError:
            return None
        return cls(
            detector=str(detector.get("name")),
            weights=str(detector.get("weights", "")),
            version=recipe["version"],
            eyes_y=crop.eyes_y,
            eyes_distance=crop.eyes_distance,
        )

    @property
    def geometry(self) -> str:
        """The options of the crop, as in a pipeline."""
        return f"crop={{eyes_y: {self.eyes_y:g}, eyes_distance: {self.eyes_distance:g}}}"

    def has_same_geometry(self, other: Self) -> bool:
        """Whether the eyes lie at the same place in both; true where a detector did not place them."""
        is_placed = UNALIGNED not in (self.detector, other.detector)
        return not is_placed or (self.eyes_y, self.eyes_distance) == (other.eyes_y, other.eyes_distance)

    def __str__(self) -> str:
        weights = f" with {self.weights}" if self.weights else ""
        return f"detector {self.detector}{weights}, {self.geometry}, version {self.version}"


def check_margins(variants: Sequence[Variant], tested: Sequence[str]) -> None:
    """Check that the crops of the data sets hold all that the variants' augmentation and evaluation show of a face.

    `tested`: URLs of the data sets on which encoders are evaluated. Raises DataError, see `augment.check_margin`.
    """
    margins: dict[str, float] = {}

    def check(spec: Augment, url: str, *, is_trained_on: bool) -> None:
        if url not in margins:
            margins[url] = Dataset(url).manifest.margin
        augment.check_margin(spec, margin=margins[url], url=url, is_trained_on=is_trained_on)

    for variant in variants:
        for trained in (*expand_stages(variant).values(), variant):
            spec = trained.job.data.augment
            views = trained.method.train_views(trained.config).values()
            sources = dict.fromkeys(view.source for view in views if view.pixels)
            for url in dict.fromkeys(url for source in sources for url in trained.job.data.urls(source)):
                check(spec, url, is_trained_on=True)
            for url in tested if trained is variant else ():
                check(spec, url, is_trained_on=False)


def check_recipes(learned: Sequence[Dataset], tested: Sequence[Dataset], others: Sequence[Dataset] = ()) -> None:
    """Compare the crops of the sets that encoders learn from, of the labelled ones, and of `others` that they meet.

    Logs one warning if they differ. Raises DataError if the eyes lie elsewhere in a labelled set than in one that is
    learned from.
    """
    recipes = {
        dataset.url: recipe
        for dataset in (*learned, *tested, *others)
        if (recipe := CropRecipe.read(dataset.manifest.recipe))
    }
    for first in (dataset.url for dataset in learned if dataset.url in recipes):
        for second in (dataset.url for dataset in tested if dataset.url in recipes):
            if not recipes[first].has_same_geometry(recipes[second]):
                raise DataError(
                    f"the faces lie differently in the crops of {first} ({recipes[first].geometry}) and {second} "
                    f"({recipes[second].geometry}), so what is learned from one says little of the other; make one of "
                    "them again with the crop of the other"
                )
    urls: dict[CropRecipe, list[str]] = {}
    for url, recipe in recipes.items():
        urls.setdefault(recipe, []).append(url)
    if len(urls) > 1:
        listing = "; ".join(f"{', '.join(group)}: {recipe}" for recipe, group in urls.items())
        log.warning(
            "the data sets of this job were cropped differently, which may change its results (%s); to compare methods, "
            "make all sets with one detector and crop",
            listing,
        )
