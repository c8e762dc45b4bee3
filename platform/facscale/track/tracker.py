"""Logs a job to MLflow: one run, with nested runs below it."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from facscale.redact import redact
from facscale.track.journal import Journal, SpoolError
from facscale.track.sender import Sender

Status = Literal["FINISHED", "FAILED", "KILLED"]
log = logging.getLogger("facscale.track")


class Figure(Protocol):
    """The one method of matplotlib's Figure that is used here."""

    def savefig(self, fname: Any, *, dpi: int, bbox_inches: str) -> None:
        """Write the figure to a file."""


class RunLogger:
    """Logs to one run, which MLflow finds by the tag `facscale.key`: the same key is the same run in every process.

    Every call returns at once, and none raises because of the tracker.
    """

    def __init__(
        self,
        key: str,
        *,
        journal: Journal,
        sender: Sender,
        name: str,
        tags: Mapping[str, str] | None,
        parent: str | None,
    ) -> None:
        """Raises ValueError for a key with a double quote, which MLflow's search cannot quote."""
        if '"' in key:
            raise ValueError(f"a run's key may not hold double quotes: {key}")
        self.key = key
        self._journal, self._sender = journal, sender
        self._write("run", **sender.target, name=name, parent=parent, tags={**(tags or {}), "facscale.key": key})

    def start_child(self, key: str, name: str, tags: Mapping[str, str] | None = None) -> RunLogger:
        """Start a run nested in this one. Its records are delivered with this one's."""
        return RunLogger(key, journal=self._journal, sender=self._sender, name=name, tags=tags, parent=self.key)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log the run's configuration, flat or nested ({"train": {"lr": 0.1}} is `train.lr`)."""
        self._write("params", values={name: str(value) for name, value in flatten(values).items()})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags, by which MLflow can search; a later value replaces an earlier one."""
        self._write("tags", values={name: str(value) for name, value in values.items()})

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at a step. A name that this run has already logged at this step keeps its first value."""
        self._write("metrics", values={name: float(value) for name, value in values.items()}, step=int(step))

    def log_dataset(self, name: str, *, url: str, fingerprint: str, context: str = "training") -> None:
        """Log a data set that the run reads, as an MLflow input."""
        self._write("dataset", name=name, url=url, fingerprint=fingerprint, context=context)

    def log_artifact(self, path: Path, name: str = "") -> None:
        """Keep a file or folder with the run as `name`, a path; "" takes its own name.

        It is copied before the call returns, so that it may be changed or deleted afterwards.
        """
        base = Path(name or Path(path).name).name
        parent = Path(name).parent.as_posix()
        folder = "" if parent == "." else parent
        if file := self._journal.add_file(Path(path), name=base):
            self._write("artifact", lane="files", file=file, name=base, folder=folder)

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as the artifact `name`; addresses in it lose their passwords."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text"
            path.write_text(redact(text), encoding="utf-8")
            self.log_artifact(path, name)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a matplotlib figure as the artifact figures/`name`.png; a later one of that name replaces it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure.png"
            figure.savefig(path, dpi=150, bbox_inches="tight")
            self.log_artifact(path, f"figures/{name}.png")

    def log_model(self, folder: Path, *, name: str = "encoder") -> None:
        """Log a folder in MLflow's model format, as `track.encoder.save_encoder` writes it, as a model of the run."""
        if file := self._journal.add_file(Path(folder), name="model"):
            self._write("model", lane="files", file=file, name=name)

    def register_model(
        self,
        name: str,
        *,
        scores: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
        description: str = "",
        model: str = "encoder",
    ) -> None:
        """Make the run's logged model `model` a version of the registered model `name`: one version a run.

        scores: the mean F1 in [0, 1] by data set; those that are not finite are left out. The alias best-<data set>
        goes to the version with the highest; MLflow itself keeps `latest`. tags: what the version can be searched by,
        beside the run's key and the scores.
        """
        self._write(
            "register",
            lane="files",
            name=name,
            scores={data: float(value) for data, value in scores.items() if math.isfinite(value)},
            tags={**(tags or {}), "facscale.key": self.key},
            description=description,
            model=model,
        )

    def set_description(self, markdown: str) -> None:
        """Set the text that MLflow shows at the top of the run's page; a later one replaces it."""
        self.set_tags({"mlflow.note.content": markdown})

    def close(self, status: Status = "FINISHED") -> bool:
        """End the run; True, because its records are safe on disk."""
        self._write("close", status=status)
        return True

    @property
    def url(self) -> str:
        """The address of the run's page; the tracker's own address until the tracker has answered."""
        return self._sender.get_run_url(self.key)

    @property
    def table_url(self) -> str:
        """The address of the page with the F1 of all runs of the experiment; "" until the tracker has answered."""
        return self._sender.table_url

    def _write(self, do: str, *, lane: str = "records", **fields: Any) -> None:
        self._journal.append({"do": do, "lane": lane, "run": self.key, "time": int(time.time() * 1000), **fields})
        self._sender.wake()


class Tracker(RunLogger):
    """Logs to the run of a job, and delivers its records and those of all runs nested in it.

    What could not be delivered stays in `spool`; a new Tracker with the same spool, or `flush`, delivers it, once.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        *,
        key: str,
        name: str,
        spool: Path,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> None:
        """`parent`: the key of the run to nest this one in, which another Tracker has created or will create."""
        journal = Journal.open(Path(spool))
        sender = Sender(journal, uri=uri, experiment=experiment)
        super().__init__(key, journal=journal, sender=sender, name=name, tags=tags, parent=parent)
        sender.start()

    def close(self, status: Status = "FINISHED", *, wait: float = 60.0) -> bool:
        """End the run. True if the tracker has everything that it accepts; False after `wait` seconds or without an answer."""
        super().close(status)
        return self._sender.stop(wait=wait)

    @property
    def spool(self) -> Path:
        """The folder where records wait; another than was asked for where that could not be written."""
        return self._journal.spool

    def explain_losses(self) -> str:
        """What of this job the tracker will never have by itself, and why; "" if nothing but params and tags."""
        parts = []
        if reason := self._sender.rejection:
            parts.append(f"MLflow refuses all records ({reason}); they and their files are kept in {self.spool}")
        elif refused := self._sender.refused:
            count = f"{len(refused)} records" if len(refused) > 1 else "a record"
            parts.append(f"MLflow refused {count} ({refused[0]}); they and their files are kept in {self.spool}")
        if self._journal.lost_files or self._journal.unwritten_count:
            parts.append(
                f"the disk of {self.spool} was full: {self._journal.unwritten_count} records and "
                f"{len(self._journal.lost_files)} files ({', '.join(self._journal.lost_files[:5])}) are lost"
            )
        return "; ".join(parts)


def flush(spool: Path, *, uri: str | None = None) -> bool:
    """Deliver what an earlier process left in `spool`, to the tracker it was meant for, or all of it again to `uri`.

    Files that only the first tracker still has are fetched from there for a second one. Records that it refused before
    are sent again. Returns True if nothing is left; False if the tracker does not answer, refuses a record (but for
    params and tags), or another process is sending. Raises SpoolError for a folder that is no
    spool.
    """
    if not (Path(spool) / "journal.jsonl").exists():
        raise SpoolError(f"{spool} holds no journal.jsonl; name the folder that the job's message named")
    journal = Journal(Path(spool))
    try:
        sender = Sender.from_journal(journal, uri=uri)
        return sender.flush() and sender.send_refused() and not sender.refused
    finally:
        journal.unlock()


def flatten(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Flatten {"a": {"b": 1}} to {"a.b": 1}; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, prefix=f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return flat
