"""Result files of benchmarks: one table with the commands, the day, the machine and the versions that it was measured with.

A script offers `--out FILE` (`add_out_option`) and adds its rows to a `ResultWriter`; the file is replaced as a whole after
each row, and says so until the last one is there. Files that are kept lie in docs/results/data. The documentation shows them
(docs/hooks/result_pages.py), and tests/unit/docs checks each of them.

What other programs have measured becomes a file too, noted with the versions and the machine of this environment:

    facscale ... > table.csv
    python tests/benchmarks/results.py --title "The demo" --command "make demo" --csv table.csv --out docs/results/data/demo.json
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError, model_validator

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "platform"))

from facscale.files import write_atomically  # noqa: E402

KEPT = ROOT / "docs" / "results" / "data"
# Modules whose versions are noted where a benchmark has imported them, and what they are installed as.
DISTRIBUTIONS = {
    "av": "av",
    "cv2": "opencv-contrib-python-headless",
    "deepspeed": "deepspeed",
    "dlib": "dlib-bin",
    "lightly": "lightly",
    "mediapipe": "mediapipe",
    "mlflow": "mlflow",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "pyarrow": "pyarrow",
    "ray": "ray",
    "simplejpeg": "simplejpeg",
    "streaming": "mosaicml-streaming",
    "torch": "torch",
}
Number = StrictInt | StrictFloat
Cell = Number | StrictStr | tuple[Number, Number] | None  # a pair is a mean and its standard deviation; None: no value
Text = Annotated[str, Field(min_length=1)]


class InvalidResultError(Exception):
    """A result file is missing or breaks the format; the message names the file and the place."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Machine(_Model):
    """The machine of a measurement; None is what was not noted."""

    cpu: str | None = None  # its model
    cores: int | None = Field(None, ge=1)  # that the benchmark may use
    memory_gb: float | None = Field(None, gt=0)
    gpu: str | None = None  # "none", or the model, with the number of several: "2 x NVIDIA H200"
    threads: int | None = Field(None, ge=1)  # of torch, or those that the benchmark was asked to use
    load: float | None = Field(None, ge=0)  # average number of processes that ran or waited, over the minute before
    note: str = ""  # such as what else ran on it


class Column(_Model):
    """A column of the table; its name has the unit."""

    name: Text
    digits: int | None = Field(None, ge=0, le=9)  # behind the point; None: text, or numbers as they are


class Results(_Model):
    """The content of a result file."""

    title: Text
    commands: tuple[Text, ...] = Field(min_length=1)
    date: dt.date | None = None
    commit: str = ""  # of facscale; ends in "+" where files had changed since
    machine: Machine
    versions: dict[str, Text]  # by distribution, and "python"; empty: not noted
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[tuple[Cell, ...], ...] = Field(min_length=1)  # in the order of the columns
    notes: tuple[Text, ...] = ()
    is_complete: bool = True

    @model_validator(mode="after")
    def _check_table(self) -> Self:
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns of the same name: {', '.join(twice)}")
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(names):
                raise ValueError(f"row {number} has {len(row)} cells for {len(names)} columns")
        return self

    def find_column(self, name: str) -> int:
        """The place of a column. Raises KeyError with the names that there are."""
        names = [column.name for column in self.columns]
        if name not in names:
            raise KeyError(f'no column "{name}"; there are {", ".join(names)}')
        return names.index(name)

    def format_cell(self, row: Sequence[Cell], place: int) -> str:
        """A cell as text, with the digits of its column; "-" where there is no value."""
        return format_value(row[place], digits=self.columns[place].digits)

    def to_json(self) -> str:
        """JSON with a line for each column and row, so that two versions of a file can be compared line by line."""
        values = self.model_dump(mode="json", exclude={"columns", "rows", "is_complete"}, exclude_none=True)
        head = json.dumps(values, indent=1, ensure_ascii=False).removesuffix("\n}")
        columns = ",\n".join(f"  {column.model_dump_json(exclude_none=True)}" for column in self.columns)
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in self.rows)
        mark = "" if self.is_complete else ',\n "is_complete": false'
        return f'{head},\n "columns": [\n{columns}\n ],\n "rows": [\n{rows}\n ]{mark}\n}}\n'


def format_value(value: Cell, *, digits: int | None) -> str:
    """A value as text: 1,090 or 0.90, `mean ± deviation` for a pair."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return " ± ".join(format_value(number, digits=digits) for number in value)
    if digits is None:
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return f"{value:,.{digits}f}"


def read_results(path: Path) -> Results:
    """Read a result file. Raises InvalidResultError."""
    try:
        results = Results.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InvalidResultError(f"{path}: there is no such file") from None
    except ValidationError as error:
        places = (f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors()[:3])
        raise InvalidResultError(f"{path}: {'; '.join(places)}") from None
    if not results.is_complete:
        raise InvalidResultError(f"{path}: the benchmark that wrote it has not ended; run it again")
    return results


def add_out_option(parser: argparse.ArgumentParser) -> None:
    """Offer `--out FILE`, which becomes `options.out`."""
    text = "write the results there too, as a file that the documentation shows (docs/results/data/NAME.json)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)


class ResultWriter:
    """Writes a result file, row by row: `with ResultWriter(options.out, title=..., columns=...) as table: table.add(...)`.

    `columns` has the digits of each column by its name (None: text). After each row the file is complete JSON; until the block
    has ended without an error it says that the benchmark has not. Without a path nothing is written.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        title: str,
        columns: Mapping[str, int | None],
        notes: Sequence[str] = (),
        threads: int | None = None,
        versions: Mapping[str, str] | None = None,
        commands: Sequence[str] = (),
    ) -> None:
        """`versions` are those of other processes; `commands` defaults to this process's own, without `--out`."""
        self.path, self.title, self.notes = path, title, list(notes)
        self.columns = tuple(Column(name=name, digits=digits) for name, digits in columns.items())
        self.rows: list[tuple[Cell, ...]] = []
        self._commands = tuple(commands) or (describe_command(),)
        self._threads, self._versions = threads, dict(versions or {})
        self._load, self._date = round(os.getloadavg()[0], 1), dt.datetime.now(dt.UTC).date()

    def __enter__(self) -> Self:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write(is_complete=True)

    def add(self, *cells: Any) -> None:
        """Add a row; NaN becomes "no value". Raises ValidationError for a row that does not fit."""
        self.rows.append(tuple(_simplify(cell) for cell in cells))
        self._write(is_complete=False)

    def note(self, text: str) -> None:
        """Add a sentence that stands under the table."""
        self.notes.append(text)

    def _write(self, *, is_complete: bool) -> None:
        if self.path is None:
            return
        results = Results(
            title=self.title,
            commands=self._commands,
            date=self._date,
            commit=describe_commit(),
            machine=describe_machine(threads=self._threads, load=self._load),
            versions={**describe_versions(), **self._versions},
            columns=self.columns,
            rows=tuple(self.rows),
            notes=tuple(self.notes),
            is_complete=is_complete,
        )
        write_atomically(self.path, results.to_json().encode())


def _simplify(cell: Any) -> Cell:
    """A cell without NaN and numpy's types."""
    if isinstance(cell, tuple | list):
        mean, deviation = (_simplify(number) for number in cell)
        return mean if mean is None or deviation is None else (mean, deviation)
    if hasattr(cell, "item"):
        cell = cell.item()
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def describe_command() -> str:
    """The command of this process, as typed in the repository's root, without `--out`."""
    words = [word for word in sys.argv[1:] if not word.startswith("--out=")]
    if "--out" in words:
        place = words.index("--out")
        del words[place : place + 2]
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return shlex.join(["python", str(name), *words])


def describe_commit() -> str:
    """The commit of the repository, with "+" if files have changed since; "" outside of one."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changes.stdout else "")


def describe_machine(*, threads: int | None = None, load: float | None = None) -> Machine:
    """This machine; `threads` defaults to torch's where it is imported."""
    torch = sys.modules.get("torch")
    if threads is None and torch is not None:
        threads = torch.get_num_threads()
    models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Machine(
        cpu=models[0].strip() if models else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(memory, 1),
        gpu=_describe_gpus(torch),
        threads=threads,
        load=load,
    )


def _describe_gpus(torch: Any) -> str:
    """The GPUs by torch, or by NVIDIA's driver where torch is not imported; "none"."""
    if torch is not None:
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    else:
        files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        names = [match[1] for file in files if (match := re.search(r"Model:\s+(.+)", file.read_text()))]
    kinds = dict.fromkeys(names)
    return ", ".join(name if names.count(name) == 1 else f"{names.count(name)} x {name}" for name in kinds) or "none"


def describe_versions() -> dict[str, str]:
    """The versions of Python and of those packages that this process has imported."""
    versions = {"python": platform.python_version()}
    for module, distribution in DISTRIBUTIONS.items():
        if module in sys.modules:
            try:
                versions[distribution] = metadata.version(distribution)
            except metadata.PackageNotFoundError:  # another build of it
                versions[distribution] = str(getattr(sys.modules[module], "__version__", "not known"))
    return versions


def read_versions(*distributions: str) -> dict[str, str]:
    """The versions of packages that other processes of this environment import: for `ResultWriter`."""
    return {name: metadata.version(name) for name in distributions}


def parse_cells(rows: Iterable[Sequence[str]]) -> list[list[Cell]]:
    """The cells of a CSV file: numbers, `mean ± deviation`, nothing, or text."""
    return [[_parse_cell(cell.strip()) for cell in row] for row in rows]


def _parse_cell(text: str) -> Cell:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", text):
        return float(text)
    if match := re.fullmatch(r"(-?[\d.]+) (?:±|\+-) ([\d.]+)", text):
        return float(match[1]), float(match[2])
    return None if text in ("", "-", "nan") else text


def count_digits(texts: Iterable[str]) -> int | None:
    """The digits behind the point that a column of a CSV file shows; None without any number that has some."""
    return max((len(match[1]) for text in texts if (match := re.match(r"-?\d*\.(\d+)", text.strip()))), default=None)


def main() -> None:
    """Make a result file of a CSV file."""
    parser = argparse.ArgumentParser(description="a result file of a CSV file with a heading")
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", required=True, action="append", help="how it was measured; may be repeated")
    parser.add_argument("--csv", required=True, type=argparse.FileType())
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    options = parser.parse_args()
    heading, *lines = csv.reader(options.csv)
    columns = {name: count_digits(line[place] for line in lines) for place, name in enumerate(heading)}
    versions = {name: metadata.version(name) for name in ("torch", "ray", "deepspeed", "mlflow")}
    with ResultWriter(
        options.out,
        title=options.title,
        columns=columns,
        notes=options.note,
        threads=options.threads,
        versions=versions,
        commands=options.command,
    ) as table:
        for cells in parse_cells(lines):
            table.add(*cells)


if __name__ == "__main__":
    main()
