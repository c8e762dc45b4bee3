"""The code that `ray job submit --working-dir` or `facscale submit --working-dir` would upload."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding, ok, problem, warning
from facscale.doctor.runner import register_check

LARGEST_COUNT = 3  # of the largest files, in a message
SLOW_SHARE = 0.2  # of Ray's limit, above which each submission takes long
RAY_LIMIT_BYTES, LIMIT_VARIABLE = 512 << 20, "RAY_max_grpc_message_size"  # the variable changes the limit
RAY_EXCLUDES, EXCLUDES_VARIABLE = ".git,.venv,venv,__pycache__", "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"
IGNORE_FILES = (".gitignore", ".rayignore")


class IgnoreRules(NamedTuple):
    """Patterns in the syntax of .gitignore, for all paths below a folder."""

    folder: Path
    patterns: GitIgnoreSpec


@register_check("working-dir", rank=25, timeout_s=60)
def check_upload_size(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at what lies in this folder: du -a . | sort -n."""
    limit = int(os.environ.get(LIMIT_VARIABLE, RAY_LIMIT_BYTES))
    finding = weigh_upload(context.code_folder or Path(), limit=limit)
    if context.code_folder is None and finding.severity == "problem":  # perhaps it will not be uploaded
        finding = replace(finding, severity="warning")
    yield finding


@register_check("working-dir", rank=55, kind="kube", timeout_s=60)
def check_archive_size(context: DiagnosticContext) -> Iterator[Finding]:
    """Look at what lies in the folder."""
    from facscale.cluster.kubernetes.code_archive import MAX_ZIP_BYTES, pack_folder

    if context.code_folder is not None:
        size, limit = len(pack_folder(context.code_folder).content) / 1e6, MAX_ZIP_BYTES / 1e6
        yield ok(f"--working-dir {context.code_folder} has {size:.2f} MB when zipped, and may have {limit:.0f}")


def weigh_upload(folder: Path, *, limit: int) -> Finding:
    """Compare the upload of a folder with Ray's limit in bytes. Ray packs without compression."""
    sizes = {path: path.stat().st_size for path in list_upload(folder)}
    total = sum(sizes.values())
    largest = sorted(sizes, key=lambda path: -sizes[path])[:LARGEST_COUNT]
    names = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:,.1f} MiB)" for path in largest)
    message = f"--working-dir {folder} has {len(sizes):,} files, {total / 2**20:,.1f} MiB"
    fix = f"name what need not be uploaded in .gitignore or .rayignore; the largest: {names}"
    if total >= limit:
        return problem(f"{message}: more than Ray takes ({limit / 2**20:,.0f} MiB)", fix)
    if total >= SLOW_SHARE * limit:
        return warning(f"{message}: each job uploads that (Ray takes {limit / 2**20:,.0f})", fix)
    return ok(f"{message} (Ray takes {limit / 2**20:,.0f})")


def list_upload(folder: Path) -> Iterator[Path]:
    """List the files that Ray packs of a folder: all but its default excludes and what ignore files in it exclude."""
    excludes = os.environ.get(EXCLUDES_VARIABLE, RAY_EXCLUDES)
    patterns = [pattern.strip() for pattern in excludes.split(",")]
    yield from _walk(folder, [IgnoreRules(folder, GitIgnoreSpec.from_lines(patterns))])


def _walk(folder: Path, rules: Sequence[IgnoreRules]) -> Iterator[Path]:
    rules = [*rules, *_read_ignore_files(folder)]
    for path in folder.iterdir():
        if any(patterns.match_file(path.relative_to(base)) for base, patterns in rules):
            continue
        if path.is_dir():
            yield from _walk(path, rules)
        elif path.is_file():
            yield path


def _read_ignore_files(folder: Path) -> Iterator[IgnoreRules]:
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            yield IgnoreRules(folder, GitIgnoreSpec.from_lines(lines))
