"""From places to clusters that answer, many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from facscale.cluster.kubernetes.clusters import Place, RayPlace
from facscale.cluster.kubernetes.host import Host, Standing
from facscale.cluster.kubernetes.rayjobs import RayJobs
from facscale.errors import UserError

Answer = TypeVar("Answer")
AT_ONCE = 16


def host(place: Place) -> Host:
    """The cluster of a place. Raises KubeError for a context that there is not."""
    if isinstance(place, RayPlace):
        from facscale.cluster.kubernetes.address import RayAddress  # Ray takes a second to be imported

        return RayAddress(place)
    return RayJobs(place)


def everywhere(places: Iterable[Place]) -> dict[str, list[Standing] | UserError]:
    """All jobs of all places, asked at the same time; of one that cannot be asked, why."""
    return each({place.name: place for place in places}, lambda place: host(place).jobs())


def each(places: Mapping[str, Place], ask: Callable[[Place], Answer]) -> dict[str, Answer | UserError]:
    """What `ask` gives for each place, or the error that is for the user's eyes."""

    def asked(place: Place) -> Answer | UserError:
        try:
            return ask(place)
        except UserError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(places, pool.map(asked, places.values()), strict=True))
