"""What several commands take."""

from __future__ import annotations

from pathlib import Path

import click

SPEC = click.argument("spec", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
