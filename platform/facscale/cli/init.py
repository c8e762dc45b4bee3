"""`facscale init`: copies the jobs and pipelines that come with facscale."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

from facscale.errors import UserError
from facscale.shipped import Kind, locate_shipped


def copy_shipped(folder: Path) -> None:
    """Copy jobs and pipelines into `folder`, which is created if it is missing.

    Raises UserError, and writes nothing, if a file is there already with other content.
    """
    sources = {
        folder / kind / source.name: source
        for kind in get_args(Kind)
        for source in sorted(locate_shipped(kind).glob("*.yaml"))
    }
    check_unchanged(sources)
    try:
        for target, source in sources.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)
            target.chmod(target.stat().st_mode | 0o111)  # a job can be executed: ./jobs/clp.yaml
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another folder") from None
    counts = {kind: sum(target.parent.name == kind for target in sources) for kind in get_args(Kind)}
    print(f"{folder}: {counts['jobs']} jobs in jobs/, {counts['pipelines']} pipelines in pipelines/")
    print(NEXT_STEPS.format(enter="" if folder == Path() else f"  cd {folder}\n"))


def check_unchanged(sources: dict[Path, Path]) -> None:
    """Raise UserError if a target exists with other content than its source."""
    changed = [str(target) for target, source in sources.items() if is_changed(target, source)]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: there already, and different from facscale's own; nothing was written. "
            "Move your own files away, or choose another folder: facscale init DIR"
        )


def is_changed(target: Path, source: Path) -> bool:
    """Whether something other than a copy of `source` is at `target`."""
    if not target.exists():
        return target.is_symlink()  # a link to nothing
    return not target.is_file() or target.read_bytes() != source.read_bytes()


NEXT_STEPS = """
Next:
{enter}  facscale demo                         # a small example of everything, on rendered faces
  facscale methods                      # the methods, and the jobs that train them
  export FACSCALE_DATA=/data/faces      # where data sets are or will be: a folder or s3://bucket/prefix
  facscale run pipelines/bp4d.yaml source.root=/data/BP4D
  facscale check jobs/clp.yaml          # prints a job's whole plan, starts nothing
  facscale run jobs/clp.yaml"""
