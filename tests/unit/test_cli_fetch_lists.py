"""What a list of fetches keeps where the terminal is narrow, and what is told of one where nobody watches."""

from __future__ import annotations

import pytest
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2
from penstock.cli.fetch_progress import follow
from penstock.cli.fetch_views import fetches_table, progress_words
from penstock.cli.output import Output
from penstock.ids import uuid7


def job(state: str, reference: str, reason: str = "", *, model: str = "minilm") -> pb.FetchJob:
    made = pb.FetchJob(
        id=uuid7(),
        state=pb.FetchJobState.Value(f"FETCH_JOB_STATE_{state}"),
        source=sources_pb2.SourceReference(source="huggingface", reference=reference),
        target=pb.FetchTarget(model=model, version="v1" if model else ""),
        progress=pb.FetchProgress(done_bytes=3_000_000, total_bytes=90_000_000),
        error=pb.FetchError(reason=reason),
    )
    made.create_time.GetCurrentTime()
    return made


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, *jobs: pb.FetchJob) -> str:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    output = Output(as_json=False, no_color=False)
    output.answer({}, fetches_table(output, jobs))
    return Text.from_ansi(capsys.readouterr().out).plain


@pytest.mark.parametrize("width", [80, 100, 120])
def test_why_a_fetch_failed_stays_however_narrow_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    jobs = [
        job("FAILED", "Xenova/all-MiniLM-L6-v2", "UNSUPPORTED_FRAMEWORK"),
        job("DOWNLOADING", "BAAI/bge-small-en-v1.5"),
        job("COMPLETED", "onnx-community/whatever-long-name", "NETWORK_ERROR"),
    ]
    out = shown(monkeypatch, capsys, width, *jobs)
    assert ("UNSUPPORTED_FRAMEWORK" in out, "NETWORK_ERROR" in out) == (True, False)
    assert "downloading" in out, "not cut either"
    assert all(len(line) <= width for line in out.splitlines())


@pytest.mark.parametrize("width", [80, 120])
def test_what_has_no_model_yet_says_what_it_is_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    failed = job("FAILED", "Xenova/all-MiniLM-L6-v2", "UNSUPPORTED_FRAMEWORK")
    out = shown(monkeypatch, capsys, width, failed, job("PENDING", "Xenova/x", "RATE_LIMITED", model=""))
    assert "of Xenova/x" in out


def test_where_nobody_watches_bytes_without_an_end_are_told_as_they_double(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        pb.FetchJob(id="a", state=pb.FETCH_JOB_STATE_DOWNLOADING, progress=pb.FetchProgress(done_bytes=mib * 1024**2))
        for mib in range(9)
    ]
    follow(Output(as_json=False, no_color=True), jobs)
    said = ["downloading", *(f"downloading, {mib}.0 MiB" for mib in (1, 2, 4, 8))]
    assert capsys.readouterr().err.splitlines() == [f"a: {words}" for words in said]


@pytest.mark.parametrize(
    ("done_files", "said"), [(1, "for another fetch that brings the same"), (2, "for the registry's validator")]
)
def test_what_a_fetch_waits_for_is_told(done_files: int, said: str) -> None:
    waits = job("PENDING", "org/m")
    waits.start_time.GetCurrentTime()
    waits.progress.done_files, waits.progress.total_files = done_files, 2
    assert f"waits {said}" in progress_words(waits)
