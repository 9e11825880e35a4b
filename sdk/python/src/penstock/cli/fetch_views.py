"""Fetches, sources and what lies there, as tables and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_count, say_duration, say_short_time, say_time, say_value
from penstock.cli.model_views import framework_word, time_of
from penstock.cli.output import Column, Output, printable, styled
from penstock.cli.wording import at_the_command_line

_COLUMNS = (
    Column("fetch", give="id"),
    Column("state"),
    Column("into", give="cut", least_width=10),
    Column("bytes", "right", optional=True),
    Column("reference", give="cut", least_width=20, optional=True),
    Column("why", optional=True),
    Column("source", optional=True),
    Column("created", optional=True),
)
_SOURCE_COLUMNS = (
    Column("source"),
    Column("here"),
    Column("a reference is", give="wrap", least_width=20),
    Column("why not", give="wrap", least_width=24),
)
_VARIANT_COLUMNS = (
    Column("variant", give="cut", least_width=12),
    Column("precision", optional=True),
    Column("files", "right"),
    Column("size", "right"),
    Column(""),
)
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
            Text("cancelling", style="yellow") if _is_cancelled(job) else styled(state_of(job), _STYLES),
            _into(job) or _from(output, job),
            _share_words(job.progress),
            job.source.reference,
            _why(job),
            job.source.source,
            output.time(time_of(job.create_time)),
        )
        for job in jobs
    ]
    # Why one failed is what a list is looked at for: it stays, however narrow the terminal.
    keeps = any(job.state == pb.FETCH_JOB_STATE_FAILED for job in jobs)
    columns = [replace(each, optional=False) if keeps and each.title == "why" else each for each in _COLUMNS]
    return output.table(columns, rows, empty="no fetch: `penstock fetch start SOURCE REFERENCE` makes one")


def fetch_facts(output: Output, job: pb.FetchJob) -> RenderableType:
    """Lay out what there is to know of a fetch."""
    error = job.error
    said = f"{at_the_command_line(error.message, error.reason)} [{error.reason}]" if error.reason else ""
    progress = job.progress
    begun = bool(progress.done_bytes or progress.HasField("total_bytes"))
    ended = job.HasField("end_time")
    known = [
        ("from", f"{job.source.source} {job.source.reference}"),
        ("revision", job.resolved_revision or job.source.revision),
        ("variant", job.source.variant),
        ("into", _into(job)),
        ("bytes", f"{bytes_words(progress)}, {_speed(progress)}".removesuffix(", ") if begun else ""),
        ("there before", say_bytes(progress.reused_bytes) if progress.reused_bytes else ""),
        ("files", f"{progress.done_files:,} of {progress.total_files:,}" if progress.total_files else ""),
        ("left", left_words(progress).removesuffix(" left")),
        ("error", "" if job.state == pb.FETCH_JOB_STATE_COMPLETED else said),
        ("waits", _waiting_words(job)),
        ("made", _made(job)),
        ("attempts", f"{job.attempt_count} of {job.max_attempts}" if job.attempt_count else ""),
        ("tells", _webhook_words(job.webhook)),
        ("worker", job.worker_id),
        ("schedule", job.schedule_id),
        ("created", f"{say_time(time_of(job.create_time))} by {job.created_by}"),
        ("ended", f"{say_time(time_of(job.end_time))}{_took(job)}" if ended else ""),
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


def inspection(output: Output, found: sources_pb2.InspectSourceResponse) -> RenderableType:
    """Lay out what lies at a source: facts, the variants where there are several, and the files of the chosen one."""
    chosen = chosen_variant(found)
    download = say_bytes(found.download_size_bytes) if found.HasField("download_size_bytes") else "size unknown"
    fields = document_of(found.metadata.fields)
    facts = [
        ("revision", found.resolved_revision),
        ("variant", chosen.name if len(found.variants) > 1 else ""),
        ("framework", framework_word(found.framework) if found.framework else "not told by the files' names"),
        ("precision", chosen.precision),
        ("task", found.metadata.task_type),
        ("dimensions", f"{found.metadata.output_dimensions:,}" if found.metadata.output_dimensions else ""),
        ("tags", ", ".join(found.metadata.tags)),
        ("fields", ", ".join(f"{name}={say_value(value)}" for name, value in fields.items())),
        ("licence", found.licence),
        ("would be called", found.suggested_model),
        ("to download", f"{download}, {say_count(len(chosen.files), 'file')}"),
    ]
    parts = [output.facts(found.source.reference, facts)]
    if len(found.variants) > 1:
        parts += [Text(), _variants_table(output, found.variants, chosen)]
    return Group(*parts, Text(), _files_table(output, chosen.files))


def chosen_variant(found: sources_pb2.InspectSourceResponse) -> sources_pb2.SourceVariant:
    """Give the variant that was asked for, else the default."""
    named = (each for each in found.variants if each.name == found.source.variant)
    return next(named, found.variants[0] if found.variants else sources_pb2.SourceVariant())


def _variants_table(
    output: Output, variants: Sequence[sources_pb2.SourceVariant], chosen: sources_pb2.SourceVariant
) -> RenderableType:
    rows = [
        (
            Text(printable(each.name), style="bold" if each.name == chosen.name else ""),
            each.precision,
            f"{len(each.files):,}",
            _size(each.size_bytes if each.HasField("size_bytes") else None),
            "default" if each.is_default and each.name != "default" else "",
        )
        for each in variants
    ]
    return output.table(_VARIANT_COLUMNS, rows, empty="no variant")


def _files_table(output: Output, files: Sequence[sources_pb2.SourceFile]) -> RenderableType:
    rows = [(file.path, _size(file.size_bytes if file.HasField("size_bytes") else None), file.sha256) for file in files]
    return output.table(_FILE_COLUMNS, rows, empty="no file")


def bytes_words(progress: pb.FetchProgress) -> str:
    """Say how many bytes are here, of how many."""
    if not progress.HasField("total_bytes"):
        return say_bytes(progress.done_bytes) if progress.done_bytes else ""
    if progress.done_bytes == progress.total_bytes:
        return say_bytes(progress.total_bytes)
    return f"{say_bytes(progress.done_bytes)} of {say_bytes(progress.total_bytes)}"


def left_words(progress: pb.FetchProgress) -> str:
    """Say how long the rest takes; nothing where that is not known."""
    return f"{say_duration(progress.remaining_ms / 1000)} left" if progress.HasField("remaining_ms") else ""


def progress_words(job: pb.FetchJob) -> str:
    """Say on one line what goes on beside the bytes: the files, the attempts, what it waits for, and why."""
    if job.HasField("end_time"):
        return ""
    progress, error = job.progress, job.error
    waiting = _waiting_words(job)
    said = (
        f"{progress.done_files:,} of {progress.total_files:,} files" if progress.total_files > 1 else "",
        f"attempt {job.attempt_count} of {job.max_attempts}" if job.attempt_count > 1 else "",
        "asked to end" if _is_cancelled(job) else "",
        f"waits {waiting}" if waiting else "",
        f"{at_the_command_line(error.message, error.reason)} [{error.reason}]" if error.reason else "",
    )
    return ", ".join(filter(None, said))


def _waiting_words(job: pb.FetchJob) -> str:
    """Say what a fetch waits for; nothing where it does not wait."""
    if job.state == pb.FETCH_JOB_STATE_QUEUED:
        return "for a worker"
    if job.state != pb.FETCH_JOB_STATE_PENDING:
        return ""
    if job.error.HasField("retry_time"):
        return f"to be tried again at {say_short_time(time_of(job.error.retry_time))}"
    due = time_of(job.due_time)
    if job.HasField("start_time"):
        all_here = 0 < job.progress.total_files == job.progress.done_files
        return "for the registry's validator" if all_here else "for another fetch that brings the same"
    return f"until {say_short_time(due)}" if due and due > datetime.now(UTC) else "for its turn"


def _webhook_words(webhook: pb.FetchWebhook) -> str:
    if not webhook.url:
        return ""
    words = f"{webhook.url}{', signed' if webhook.signed else ''}"
    if webhook.HasField("delivery_time"):
        return f"{words}; it arrived {say_short_time(time_of(webhook.delivery_time))}"
    if webhook.last_error:
        return f"{words}; {'given up' if webhook.given_up else 'tried again'}: {webhook.last_error}"
    return words


def _speed(progress: pb.FetchProgress) -> str:
    return f"{say_bytes(progress.bytes_per_second)}/s" if progress.bytes_per_second else ""


def _size(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else say_bytes(size_bytes)


def _took(job: pb.FetchJob) -> str:
    begin, end = time_of(job.start_time), time_of(job.end_time)
    return f", after {say_duration((end - begin).total_seconds())}" if begin and end else ""


def _state(job: pb.FetchJob) -> Text:
    word = state_of(job)
    return Text(f"{word}, asked to end", style="yellow") if _is_cancelled(job) else styled(word, _STYLES)


def _is_cancelled(job: pb.FetchJob) -> bool:
    """Say whether it was asked to end, and has not yet."""
    return job.cancel_requested and not job.HasField("end_time")


def _into(job: pb.FetchJob) -> str:
    if job.HasField("end_time") and not job.HasField("result"):
        return job.target.model  # no version was made
    made = job.result if job.HasField("result") else job.target
    return f"{made.model} {made.version}".strip()


def _from(output: Output, job: pb.FetchJob) -> str | Text:
    """Say what is fetched, for want of a model's name; piped it stands beside it."""
    return Text(printable(f"of {job.source.reference}"), style="dim") if output.stdout.is_terminal else ""


def _why(job: pb.FetchJob) -> str:
    return "" if job.state == pb.FETCH_JOB_STATE_COMPLETED else job.error.reason


def _share_words(progress: pb.FetchProgress) -> str:
    """Say how many bytes are here, in short: `28% of 4.9 GiB`."""
    if not progress.total_bytes or progress.done_bytes == progress.total_bytes:
        return bytes_words(progress)
    return f"{progress.done_bytes * 100 // progress.total_bytes}% of {say_bytes(progress.total_bytes)}"


def _made(job: pb.FetchJob) -> str:
    if not job.HasField("result"):
        return ""
    result = job.result
    if result.existed:
        return f"{result.model} {result.version}, which was there already"
    number = f"; it is number {result.deployment_number:,} of the model's" if result.deployment_number > 1 else ""
    return f"{result.model} {result.version}, {say_bytes(result.downloaded_bytes)} downloaded{number}"
