"""Fetches and sources as tables, facts and a bar that lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from rich.console import RenderableType
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.cli.formats import say_bytes, say_count, say_duration, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, styled
from penstock.cli.wording import at_the_command_line

_COLUMNS = (
    Column("fetch"),
    Column("state"),
    Column("model", give="cut"),
    Column("version", give="cut", optional=True),
    Column("bytes", "right"),
    Column("source", optional=True),
    Column("reference", give="cut", optional=True),
    Column("created", optional=True),
)
_SOURCE_COLUMNS = (Column("source"), Column("here"), Column("a reference is"), Column("why not", give="cut"))
_FILE_COLUMNS = (Column("file", give="cut"), Column("size", "right"), Column("sha-256", give="cut", optional=True))
_STYLES = {
    "pending": "dim",
    "queued": "yellow",
    "downloading": "cyan",
    "processing": "cyan",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "dim",
}


def state_of(job: pb.FetchJob) -> str:
    """Say a job's state as options take it."""
    return pb.FetchJobState.Name(job.state).removeprefix("FETCH_JOB_STATE_").lower()


def fetches_table(output: Output, jobs: Sequence[pb.FetchJob]) -> RenderableType:
    """Lay out fetches, one a row."""
    rows = [
        (
            job.id,
            _state(job),
            job.target.model,
            job.target.version,
            _bytes(job.progress),
            job.source.source,
            job.source.reference,
            output.time(time_of(job.create_time)),
        )
        for job in jobs
    ]
    return output.table(_COLUMNS, rows, empty="no fetch: `penstock fetch start SOURCE REFERENCE` makes one")


def fetch_facts(output: Output, job: pb.FetchJob) -> RenderableType:
    """Lay out what there is to know of a fetch."""
    error = job.error
    said = f"{at_the_command_line(error.message, error.reason)} [{error.reason}]" if error.reason else ""
    progress = job.progress
    known = [
        ("from", f"{job.source.source} {job.source.reference}"),
        ("revision", job.resolved_revision or job.source.revision),
        ("into", f"{job.target.model} {job.target.version}".strip()),
        ("bytes", _bytes(progress) if progress.done_bytes or progress.HasField("total_bytes") else ""),
        ("there before", say_bytes(progress.reused_bytes) if progress.reused_bytes else ""),
        ("files", f"{progress.done_files} of {progress.total_files}" if progress.total_files else ""),
        ("left", say_duration(progress.remaining_ms / 1000) if progress.HasField("remaining_ms") else ""),
        ("error", said),
        ("tried again", say_time(time_of(error.retry_time)) if error.HasField("retry_time") else ""),
        ("made", _made(job)),
        ("attempts", f"{job.attempt_count} of {job.max_attempts}" if job.attempt_count else ""),
        ("worker", job.worker_id),
        ("created", f"{say_time(time_of(job.create_time))} by {job.created_by}"),
        ("not before", say_time(time_of(job.due_time)) if job.state == pb.FETCH_JOB_STATE_PENDING else ""),
        ("deleted after", say_time(time_of(job.expire_time)) if job.HasField("expire_time") else ""),
    ]
    return output.facts(Text.assemble((job.id, "bold"), "  ", _state(job)), known)


def sources_table(output: Output, sources: Sequence[sources_pb2.Source]) -> RenderableType:
    """Lay out the sources."""
    rows = [
        (
            source.name,
            Text("yes", style="green") if source.enabled else Text("no", style="yellow"),
            source.reference_form,
            source.reason,
        )
        for source in sources
    ]
    return output.table(_SOURCE_COLUMNS, rows, empty="this fetcher knows no source")


def inspection_facts(output: Output, found: sources_pb2.InspectSourceResponse) -> RenderableType:
    """Lay out what lies at a source."""
    framework = registry.Framework.Name(found.framework).removeprefix("FRAMEWORK_").lower()
    known = [
        ("revision", found.resolved_revision),
        ("framework", framework if found.framework else "not told by the files' names"),
        ("licence", found.licence),
        ("would be called", found.suggested_model),
        ("to download", say_bytes(found.download_size_bytes) if found.HasField("download_size_bytes") else "unknown"),
    ]
    return output.facts(Text(found.source.reference, style="bold"), known)


def files_table(output: Output, files: Sequence[sources_pb2.SourceFile]) -> RenderableType:
    """Lay out files."""
    rows = [
        (file.path, say_bytes(file.size_bytes) if file.HasField("size_bytes") else "unknown", file.sha256)
        for file in files
    ]
    return output.table(_FILE_COLUMNS, rows, empty="no file")


def follow(output: Output, watched: Iterable[pb.FetchJob]) -> pb.FetchJob:
    """Show a fetch while it goes on, by a bar with bytes, speed and the time left, or by lines; gives how it ended."""
    from rich import progress as bars

    job = pb.FetchJob()
    bar = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.fields[bytes]}", justify="right"),
        bars.TextColumn("{task.fields[speed]}", justify="right"),
        bars.TextColumn("{task.fields[left]}", justify="right"),
        console=output.stderr,
        disable=output.as_json or not output.stderr.is_terminal,
        expand=True,
    )
    with ExitStack() as stack:
        if not bar.disable:
            stack.enter_context(bar)
        task = bar.add_task("", total=None, bytes="", speed="", left="")
        said = None
        for job in watched:
            if bar.disable and said != job.state:
                said = job.state
                output.note(f"{job.id}: {state_of(job)}")
            progress = job.progress
            left = f"{say_duration(progress.remaining_ms / 1000)} left" if progress.HasField("remaining_ms") else ""
            bar.update(
                task,
                description=state_of(job),
                completed=progress.done_bytes,
                total=progress.total_bytes if progress.HasField("total_bytes") else None,
                bytes=_bytes(progress),
                speed=f"{say_bytes(progress.bytes_per_second)}/s" if progress.bytes_per_second else "",
                left=left,
            )
    return job


def _state(job: pb.FetchJob) -> Text:
    word = state_of(job)
    if word in ("downloading", "processing") and job.cancel_requested:
        return Text(f"{word}, asked to end", style="yellow")
    return styled(word, _STYLES)


def _bytes(progress: pb.FetchProgress) -> str:
    if not progress.HasField("total_bytes"):
        return say_bytes(progress.done_bytes) if progress.done_bytes else ""
    if progress.done_bytes == progress.total_bytes:
        return say_bytes(progress.total_bytes)
    return f"{say_bytes(progress.done_bytes)} of {say_bytes(progress.total_bytes)}"


def _made(job: pb.FetchJob) -> str:
    if not job.HasField("result"):
        return ""
    result = job.result
    if result.existed:
        return f"{result.model} {result.version}, which was there already"
    return f"{result.model} {result.version}, {say_count(result.downloaded_bytes, 'byte')} downloaded"
