"""Ray clusters: join one, and know what a job asks of it."""

from facscale.cluster.local import join, refuse_impossible, resources

__all__ = ["join", "refuse_impossible", "resources"]
