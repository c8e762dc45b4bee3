"""What surrounds the trainings of one job: its data, its tracker, and the terminal."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from rich.console import Console

from facscale.cluster.claim import ClaimedError, claim, describe_process
from facscale.cluster.ray import count_parallel_trainings, describe_cluster, join, wait_for_capacity, watch_head
from facscale.data.storage import is_remote
from facscale.errors import UserError
from facscale.evaluate.expression import ExpressionDataset
from facscale.evaluate.protocol import LabelledDataset
from facscale.inference.worker_access import check_worker_access
from facscale.job.datasets import JobData, find_stage_urls
from facscale.job.overlap import describe_overlap
from facscale.job.prepared import PreparedJob
from facscale.job.provenance import get_commit, get_user
from facscale.job.slots import TrainingSlots
from facscale.job.variants import Variant, get_cluster_name
from facscale.names import sanitize_filename
from facscale.ownership import PRIVATE_FILE, create_folders
from facscale.report.bundle import Report
from facscale.spec import Job
from facscale.track import Tracker
from facscale.track.journal import JOURNAL, SPOOL_ROOT, SpoolInUseError, hold_spool
from facscale.track.login import check_credentials_target, check_store_kind
from facscale.track.tracker import RunLogger
from facscale.train.trainer import storage_url

LOG_WIDTH = 150  # of tables in a log
INTERRUPTED = 130  # exit status, as shells have it
CLOSING_S = 10  # in which what has been logged is sent when a job ends early
SQLITE = "sqlite:///"
UNTRACKED = 1  # exit status of a complete job whose results MLflow did not accept


class JobRunningError(UserError):
    """The same job runs already."""


@dataclass(frozen=True)
class JobContext:
    """One job while it runs."""

    variants: tuple[Variant, ...]  # the job's own first, then its baselines
    data: JobData
    key: str  # of the job's run in MLflow
    tracker: Tracker
    slots: TrainingSlots
    console: Console

    @property
    def exit_status(self) -> int:
        """0, or UNTRACKED once the tracker is closed and has not accepted everything; an absent tracker counts as neither."""
        return UNTRACKED if self.tracker.explain_losses() else 0

    @property
    def main(self) -> Variant:
        """The job's own variant."""
        return self.variants[0]

    def make_tags(self, variant: Variant) -> dict[str, str]:
        """Tags by which every run can be searched."""
        return make_tags(variant, job=self.main.name, fingerprints=self.data.fingerprints)

    def start_run(self, variant: Variant, title: str) -> RunLogger:
        """A run below the job's own: of a further row, seed, fold or stage."""
        return self.tracker.start_child(f"{self.key}/{title}", title, self.make_tags(variant))

    def describe_run(self, variant: Variant, run: RunLogger) -> None:
        """Log parameters and data sets to a run."""
        spec = variant.job.model_dump(mode="json", exclude={"method", "cluster", "track"})
        run.log_params({**spec, "method": variant.job.method.name, "protocol": variant.protocol})
        # Other values of `cluster` make no other run: a job that resumes may have them.
        cluster = variant.job.cluster.model_dump(mode="json")
        run.set_tags({f"cluster.{key}": str(value) for key, value in cluster.items()})
        run.log_params({"method": variant.config.model_dump(mode="json")})
        for dataset in self.data.unlabelled:
            manifest = dataset.manifest
            run.log_dataset(manifest.name, url=dataset.url, fingerprint=manifest.fingerprint, context="pre-training")
        tested: list[tuple[str, LabelledDataset | ExpressionDataset]] = [
            *(("cross-validation", dataset) for dataset in self.data.labelled),
            *(("transfer", dataset) for dataset in self.data.transfer),
            *(("expressions", dataset) for dataset in self.data.expressions),
        ]
        for purpose, labelled in tested:
            run.log_dataset(labelled.name, url=labelled.url, fingerprint=labelled.fingerprint, context=purpose)

    def publish(self, report: Report, run: RunLogger) -> None:
        """Show the tables of a report in the terminal and log all of it to a run."""
        for table in report.tables:
            self.console.print(table.to_rich())
        log_report(report, run)


@contextmanager
def open_context(prepared: PreparedJob) -> Iterator[JobContext]:
    """Join the cluster, unless this process has, and open the tracker; at the end of the block, close the tracker.

    Raises SpecError before anything costly starts, and JobRunningError where the same job runs already.
    """
    variants, main, data, key = prepared.variants, prepared.main, prepared.data, prepared.key
    overlap = describe_overlap(data)
    make_storage(main.job)
    is_resumed = (get_spool(main, key=key) / JOURNAL).exists()
    with hold_job(main, key=key):
        wait_for_capacity(main.job, is_resumed=is_resumed)
        check_worker_access([storage_url(main.job), *find_remote_urls(variants)])
        context = JobContext(
            variants,
            data,
            key=key,
            tracker=open_tracker(main, data, key=key),
            slots=TrainingSlots(count_parallel_trainings(main.job)),
            console=Console(width=LOG_WIDTH if not os.isatty(1) else None, highlight=False),
        )
        context.console.print(
            f"{main.name}: {describe_cluster()}; trainings at a time: {context.slots.count}", soft_wrap=True
        )
        if overlap:
            context.console.print(overlap, markup=False, soft_wrap=True)
        try:
            yield context
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)  # Ray makes the latter of SIGTERM: ray job stop
            context.tracker.close("KILLED" if stopped else "FAILED", wait=CLOSING_S)
            if isinstance(error, KeyboardInterrupt) and context.slots.count > 1:
                os._exit(INTERRUPTED)  # its threads would go on waiting for Ray, which ends what a driver leaves behind
            raise
        close_tracker(context)


@contextmanager
def hold_job(main: Variant, *, key: str) -> Iterator[None]:
    """Join the cluster as the only process that runs the job with this key, on this machine and on the cluster.

    Raises JobRunningError where another one does: both would log to the same run.
    """
    owner = f"{main.name}: {describe_process()}"
    try:
        with hold_spool(get_spool(main, key=key), owner=owner):
            join()
            ray_context = ray.get_runtime_context()
            with (
                watch_head(ray_context.gcs_address),
                claim(f"job-{key}", description=f"{owner} (Ray job {ray_context.get_job_id()})"),
            ):
                yield
    except (ClaimedError, SpoolInUseError) as error:
        raise JobRunningError(
            f"the same job runs already ({error}): follow that one, or stop it and submit this one again, which then "
            "continues it. With another `name` it would be another run"
        ) from None


def close_tracker(context: JobContext) -> None:
    """End the job's run, and print where its results are: at the tracker, or still here, and why."""
    is_delivered = context.tracker.close()
    storage = storage_url(context.main.job)
    context.console.print(f"checkpoints and exported methods: {storage}", soft_wrap=True)
    if losses := context.tracker.explain_losses():
        again = f"facscale sync {context.tracker.spool} --uri TRACKER sends everything to another tracker"
        context.console.print(f"{losses}. {again}", soft_wrap=True)
    elif not is_delivered:
        context.console.print(
            f"MLflow could not be reached; later: facscale sync {context.tracker.spool}", soft_wrap=True
        )
    else:
        context.console.print(f"MLflow: {context.tracker.url}", soft_wrap=True)
        if (uri := choose_tracker(context.main.job)).startswith(SQLITE):
            context.console.print(f"to see it: mlflow server --backend-store-uri {uri}", soft_wrap=True)
        if context.tracker.table_url:
            context.console.print(f"beside all others: {context.tracker.table_url}")


def find_remote_urls(variants: Sequence[Variant]) -> list[str]:
    """The data sets of a job, of its stages too, that lie in object stores."""
    job = variants[0].job
    urls = [
        url for source in ("unlabelled", "labelled") for variant in variants for url in variant.job.data.urls(source)
    ]
    urls += [*job.evaluate.transfer, *job.evaluate.expressions, *find_stage_urls(variants)]
    return [url for url in dict.fromkeys(urls) if is_remote(url)]


def open_tracker(main: Variant, data: JobData, *, key: str) -> Tracker:
    """The job's own run. Raises LoginError where credentials would go to another server than theirs, TrackerError."""
    track, cluster = main.job.track, get_cluster_name(main.job)
    check_credentials_target(track.uri)
    uri = choose_tracker(main.job)
    check_store_kind(uri)
    return Tracker(
        uri,
        track.experiment or (data.labelled[0].name if data.labelled else "facscale"),
        key=key,
        name=f"{main.name} ({cluster})" if cluster else main.name,
        spool=get_spool(main, key=key),
        tags=make_tags(main, job=main.name, fingerprints=data.fingerprints) | track.tags,
    )


def choose_tracker(job: Job) -> str:
    """The address of the job's tracker: the spec's, else MLFLOW_TRACKING_URI's, else a SQLite file beside the runs."""
    return job.track.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{make_default_store(job)}"


def make_tags(variant: Variant, *, job: str, fingerprints: Sequence[str]) -> dict[str, str]:
    """Tags of a run of the job called `job`."""
    return {
        "method": variant.job.method.name,
        "row": variant.name,
        "job": job,
        "protocol": variant.protocol,
        "cluster": get_cluster_name(variant.job) or socket.gethostname(),
        "data": " ".join(fingerprint[:12] for fingerprint in fingerprints),
        "git.commit": get_commit(),
        "mlflow.source.name": f"facscale run {job}",  # a column of MLflow's list of runs
        "mlflow.source.type": "JOB",
        "mlflow.user": get_user(),
    }


def get_spool(main: Variant, *, key: str) -> Path:
    """Where records wait on this machine until MLflow has them."""
    return SPOOL_ROOT / f"{sanitize_filename(main.name)}-{key}"


def make_storage(job: Job) -> None:
    """Create the folder of `cluster.storage` if it is on this machine and missing, so that no other user can enter it."""
    if "://" not in storage_url(job):
        create_folders(Path(storage_url(job)))


def make_default_store(job: Job) -> Path:
    """The SQLite file where runs are tracked without a server: beside the runs, or at home where those are remote.

    Only this user can read a new one.
    """
    folder = Path("~/facscale").expanduser() if "://" in storage_url(job) else Path(storage_url(job))
    create_folders(folder)
    file = folder / "mlflow.db"
    file.touch(mode=PRIVATE_FILE)
    return file


def log_report(report: Report, run: RunLogger) -> None:
    """Log everything that a report holds to a run."""
    for name, text in report.texts.items():
        run.log_text(text, name)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in report.files.items():
            file = Path(folder) / Path(name).name
            file.write_bytes(content)
            run.log_artifact(file, name)
    for name, figure in report.figures.items():
        run.log_figure(figure, name)
    if report.metrics:
        run.log_metrics(report.metrics)
