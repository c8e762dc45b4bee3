"""The jobs and pipelines that come with facscale: in a checkout links to the two folders at its root, in a wheel copies."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Literal

from facscale.errors import UserError

Kind = Literal["jobs", "pipelines"]


def locate_shipped(kind: Kind) -> Path:
    """Return the folder with the YAML files of one kind. Raises UserError if the installation lacks it."""
    folder = Path(str(importlib.resources.files(__name__) / kind)).resolve()
    if not any(folder.glob("*.yaml")):
        raise UserError(f"{folder}: facscale's own {kind} are missing from this installation; install facscale again")
    return folder
