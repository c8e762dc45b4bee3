"""Job and pipeline files: strict, with inheritance and overrides; errors name the file, line and nearest key."""

from facscale.spec.block import Block
from facscale.spec.document import Document, merge, parse, read_spec, suggest_nearest
from facscale.spec.errors import SpecError
from facscale.spec.models import Job
from facscale.spec.pipelines import Pipeline
from facscale.spec.plugins import Plugins

__all__ = [
    "Block",
    "Document",
    "Job",
    "Pipeline",
    "Plugins",
    "SpecError",
    "merge",
    "parse",
    "read_spec",
    "suggest_nearest",
]
