"""facscale: train, sweep and compare facial action unit representations on a cluster."""

__version__ = "0.1.0"
