"""`facscale init`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

from facscale.errors import UserError
from facscale.shipped import Kind, locate_shipped


def copy_shipped(folder: Path) -> None:
    """Copy jobs and pipelines into `folder`, made where it is missing. Raises UserError, with nothing written, where a file differs."""
    sources = {
        folder / kind / source.name: source
        for kind in get_args(Kind)
        for source in sorted(locate_shipped(kind).glob("*.yaml"))
    }
    refuse_changed(sources)
    try:
        for target, source in sources.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)
            target.chmod(target.stat().st_mode | 0o111)  # a job is a program
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another folder") from None
    counts = {kind: sum(target.parent.name == kind for target in sources) for kind in get_args(Kind)}
    print(f"{folder}: {counts['jobs']} jobs in jobs/, {counts['pipelines']} pipelines in pipelines/")
    print(NEXT.format(enter="" if folder == Path() else f"  cd {folder}\n"))


def refuse_changed(sources: dict[Path, Path]) -> None:
    """Raise UserError if a file that would be written is there already, with other content."""
    changed = [str(target) for target, source in sources.items() if is_changed(target, source)]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: there already, and different from what facscale brings; nothing was written. "
            "Move your own files away, or choose another folder: facscale init DIR"
        )


def is_changed(target: Path, source: Path) -> bool:
    """Whether something other than a copy of `source` lies at `target`."""
    if not target.exists():
        return target.is_symlink()  # one that leads nowhere
    return not target.is_file() or target.read_bytes() != source.read_bytes()


NEXT = """
Next:
{enter}  facscale demo                         # all of it, small, on this machine, from rendered faces
  facscale methods                      # what can be trained, and by which jobs
  export FACSCALE_DATA=/data/faces      # where data sets lie or will lie: a folder or s3://bucket/prefix
  facscale run pipelines/bp4d.yaml source.root=/data/BP4D
  facscale check jobs/clp.yaml          # a job's whole plan; starts nothing
  facscale run jobs/clp.yaml"""
