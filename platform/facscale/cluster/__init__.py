"""Ray clusters: join one, and know what a job asks of it."""

from facscale.cluster.ray import at_once, join, refuse_impossible, resources

__all__ = ["at_once", "join", "refuse_impossible", "resources"]
