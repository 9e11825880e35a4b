"""A fetch while it goes on: a bar that lives, or lines where nobody watches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from rich import progress as bars
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.cli.bars import BarWithLines
from penstock.cli.fetch_views import bytes_words, left_words, progress_words, state_of
from penstock.cli.formats import say_bytes
from penstock.cli.output import Output, printable

_PARTS = 10
"""Where nobody watches, so many lines tell how far the bytes are."""


def follow(output: Output, watched: Iterable[pb.FetchJob], *, title: str = "") -> pb.FetchJob:
    """Show a fetch until it has ended, and give how it ended; with `--json` nothing is shown.

    Args:
        output: where to: a bar with bytes, speed and the time left where a person watches, else lines.
        watched: the fetch whenever it changes.
        title: what it is called; its id where nothing is said.
    """
    if output.as_json or not output.stderr.is_terminal:
        return _by_lines(output, watched, title)
    job = pb.FetchJob()
    bar = BarWithLines(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.fields[bytes]}", justify="right"),
        bars.TextColumn("{task.fields[speed]}", justify="right"),
        bars.TextColumn("{task.fields[left]}", justify="right"),
        console=output.stderr,
        expand=True,
    )
    with ExitStack() as stack:
        stack.enter_context(bar)
        task = bar.add_task(title, total=None, bytes="", speed="", left="")
        for job in watched:
            progress = job.progress
            bar.below = Text(printable(progress_words(job)), style="dim")
            bar.update(
                task,
                description=f"{title} {state_of(job)}".strip(),
                completed=progress.done_bytes,
                total=progress.total_bytes if progress.HasField("total_bytes") else None,
                bytes=bytes_words(progress),
                speed=f"{say_bytes(progress.bytes_per_second)}/s" if progress.bytes_per_second else "",
                left=left_words(progress),
            )
        bar.below = Text()
    return job


def _by_lines(output: Output, watched: Iterable[pb.FetchJob], title: str) -> pb.FetchJob:
    job = pb.FetchJob()
    said: tuple[object, ...] = ()
    for job in watched:
        progress = job.progress
        flows = job.state == pb.FETCH_JOB_STATE_DOWNLOADING
        part = _part(progress) if flows else 0
        now = (job.state, job.attempt_count, job.error.reason, job.cancel_requested, part)
        if now == said:
            continue
        said = now
        speed = f"{say_bytes(progress.bytes_per_second)}/s" if progress.bytes_per_second else ""
        words = (state_of(job), bytes_words(progress) if flows else "", speed, left_words(progress))
        output.note(f"{title or job.id}: {printable(', '.join(filter(None, (*words, progress_words(job)))))}")
    return job


def _part(progress: pb.FetchProgress) -> int:
    """Give the part that the bytes are at; where nobody knows their end, one begins whenever their MiB have doubled."""
    if progress.total_bytes:
        return progress.done_bytes * _PARTS // progress.total_bytes
    return (progress.done_bytes // 1024**2).bit_length()
