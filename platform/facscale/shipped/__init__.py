"""The jobs and the pipelines that come with facscale: in a checkout the two folders at its root, in a wheel copies of them."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Literal

from facscale.errors import UserError

Kind = Literal["jobs", "pipelines"]


def locate_shipped(kind: Kind) -> Path:
    """The folder of one kind of YAML files. Raises UserError where the installation lost it."""
    folder = Path(str(importlib.resources.files(__name__) / kind)).resolve()
    if not any(folder.glob("*.yaml")):
        raise UserError(f"{folder}: facscale's own {kind} are missing from this installation; install facscale again")
    return folder
