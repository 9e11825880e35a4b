"""Batch predictions as tables, facts and a bar that lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from rich.console import RenderableType
from rich.text import Text

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.cli.formats import say_bytes, say_count, say_duration, say_share, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, styled
from penstock.cli.wording import at_the_command_line

_COLUMNS = (
    Column("job", give="id"),
    Column("state"),
    Column("model", give="cut"),
    Column("version", give="cut", optional=True),
    Column("rows", "right", give="cut"),
    Column("failed", "right", optional=True),
    Column("created", optional=True),
    Column("took", "right", optional=True),
    Column("by", give="cut", optional=True),
)
_WORKER_COLUMNS = (
    Column("worker", give="cut", least_width=20),
    Column("state"),
    Column("busy", "right"),
    Column("since"),
    Column("seen"),
)
_STYLES = {
    "pending": "dim",
    "queued": "yellow",
    "running": "cyan",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "dim",
}
TERMINAL = (pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)


def state_of(job: pb.PredictionJob) -> str:
    """Say a job's state as options take it."""
    return pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()


def jobs_table(output: Output, jobs: Sequence[pb.PredictionJob]) -> RenderableType:
    """Lay out jobs, one a row."""
    rows = [
        (
            job.id,
            _state(job),
            job.model,
            job.resolved_version or job.version,
            _rows(job.progress),
            f"{job.progress.failed_rows:,}" if job.progress.failed_rows else "",
            output.time(time_of(job.create_time)),
            _took(job),
            job.created_by,
        )
        for job in jobs
    ]
    return output.table(_COLUMNS, rows, empty="no job: `penstock job create MODEL --input FILE` makes one")


def job_facts(output: Output, job: pb.PredictionJob) -> RenderableType:
    """Lay out what there is to know of a job."""
    title = Text.assemble((job.id, "bold"), "  ", _state(job))
    known = [
        ("model", f"{job.model} {job.resolved_version or job.version}".strip()),
        ("input", job.input.uri),
        ("rows", _rows(job.progress)),
        ("failed rows", f"{job.progress.failed_rows:,}" if job.progress.failed_rows else ""),
        ("left", say_duration(job.progress.remaining_ms / 1000) if job.progress.HasField("remaining_ms") else ""),
        (
            "error",
            f"{at_the_command_line(job.error.message, job.error.reason)} [{job.error.reason}]"
            if job.error.reason
            else "",
        ),
        ("its traceback", "shown by --json" if job.error.traceback and job.error.reason == "INTERNAL" else ""),
        ("result", _result(job)),
        ("attempts", f"{job.attempt_count} of {job.max_attempts}" if job.attempt_count else ""),
        ("worker", job.worker_id),
        ("waited", say_duration(job.queue_time_ms / 1000) if job.attempt_count else ""),
        ("in the model", say_duration(job.inference_time_ms / 1000) if job.inference_time_ms else ""),
        ("took", _took(job)),
        ("created", f"{say_time(time_of(job.create_time))} by {job.created_by}"),
        ("not before", say_time(time_of(job.due_time)) if job.state == pb.JOB_STATE_PENDING else ""),
        ("deleted after", say_time(time_of(job.expire_time)) if job.HasField("expire_time") else ""),
    ]
    return output.facts(title, [(name, value) for name, value in known])


def workers_table(output: Output, workers: Sequence[pb.PredictionWorker]) -> RenderableType:
    """Lay out the processes that work on jobs."""
    rows = [
        (
            worker.id,
            Text("live", style="green") if worker.live else Text("not seen lately", style="bold red"),
            f"{worker.busy_count} of {worker.slot_count}",
            output.time(time_of(worker.start_time)),
            output.time(time_of(worker.seen_time)),
        )
        for worker in workers
    ]
    return output.table(_WORKER_COLUMNS, rows, empty="no worker was seen within the hour")


def follow(output: Output, watched: Iterable[pb.PredictionJob]) -> pb.PredictionJob:
    """Show a job while it goes on, by a bar with rows, speed and the time left, or by lines; gives how it ended."""
    from rich import progress as bars

    job = pb.PredictionJob()
    bar = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.fields[rows]}", justify="right"),
        bars.TextColumn("{task.fields[speed]}", justify="right"),
        bars.TextColumn("{task.fields[left]}", justify="right"),
        console=output.stderr,
        disable=output.as_json or not output.stderr.is_terminal,
        expand=True,
    )
    with ExitStack() as stack:
        if not bar.disable:
            stack.enter_context(bar)
        task = bar.add_task("", total=None, rows="", speed="", left="")
        said = None
        for job in watched:
            if bar.disable and said != job.state:
                said = job.state
                output.note(f"{job.id}: {state_of(job)}")
            progress = job.progress
            total = progress.total_rows if progress.HasField("total_rows") else None
            left = f"{say_duration(progress.remaining_ms / 1000)} left" if progress.HasField("remaining_ms") else ""
            bar.update(
                task,
                description=state_of(job),
                completed=progress.done_rows,
                total=total,
                rows=f"{_rows(progress)} rows",
                speed=_speed(job),
                left=left,
            )
    return job


def _state(job: pb.PredictionJob) -> Text:
    word = state_of(job)
    if job.state == pb.JOB_STATE_RUNNING and job.cancel_requested:
        return Text("running, asked to end", style="yellow")
    return styled(word, _STYLES)


def _rows(progress: pb.JobProgress) -> str:
    if not progress.HasField("total_rows"):
        return f"{progress.done_rows:,}"
    if progress.done_rows == progress.total_rows:
        return f"{progress.total_rows:,}"
    share = progress.done_rows / progress.total_rows if progress.total_rows else None
    return f"{progress.done_rows:,} of {progress.total_rows:,} ({say_share(share)})"


def _speed(job: pb.PredictionJob) -> str:
    if job.state != pb.JOB_STATE_RUNNING or job.run_time_ms < 1 or not job.progress.HasField("remaining_ms"):
        return ""
    left = job.progress.total_rows - job.progress.done_rows
    return f"{left * 1000 / job.progress.remaining_ms:,.0f}/s" if job.progress.remaining_ms else ""


def _took(job: pb.PredictionJob) -> str:
    if not job.HasField("start_time"):
        return ""
    if not job.HasField("end_time"):
        return say_duration(job.run_time_ms / 1000)
    return say_duration(job.end_time.ToDatetime().timestamp() - job.start_time.ToDatetime().timestamp())


def _result(job: pb.PredictionJob) -> str:
    if not job.HasField("result"):
        return ""
    written = pb.FileFormat.Name(job.output_format).removeprefix("FILE_FORMAT_")
    return f"{say_count(job.result.row_count, 'row')}, {written}, {say_bytes(job.result.size_bytes)}"
