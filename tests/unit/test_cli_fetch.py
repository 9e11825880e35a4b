"""`penstock fetch` against a scripted fetcher: what is asked, what is shown, and what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as schedules
from penstock.api.fetcher.v1 import sources_pb2
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.cli import fetch_advice
from penstock.cli.__main__ import run
from penstock.cli.fetch_advice import Ways, help_for, next_step
from penstock.cli.fetch_progress import follow
from penstock.cli.output import Output
from services.common import errors
from services.fetcher import faults
from services.fetcher.settings import FetcherSettings
from tests.sdk import ScriptedServer, answer, fail, scripted_server, stream

ID = "01934a1e-7c00-7000-8000-000000000001"
GIBIBYTE = 1024**3
LONG = f"https://example.org/{'a-rather-long-folder/' * 8}weights.onnx"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_FETCHER_ADDRESS", server.address)
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let rich believe in a terminal of 80 columns; tests set others."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def job_in(state: str, reason: str = "", *, source: str = "url", **more: Any) -> pb.FetchJob:
    job = pb.FetchJob(id=ID, state=pb.FetchJobState.Value(f"FETCH_JOB_STATE_{state}"), max_attempts=3, **more)
    job.source.source, job.source.reference = source, job.source.reference or "https://example.org/m.onnx"
    job.create_time.GetCurrentTime()
    if reason:
        job.error.reason, job.error.message = reason, "it went wrong."
    if state in ("COMPLETED", "FAILED", "CANCELLED"):
        job.end_time.GetCurrentTime()
    return job


def found_in(*names: str) -> sources_pb2.InspectSourceResponse:
    found = sources_pb2.InspectSourceResponse(
        source=sources_pb2.SourceReference(source="huggingface", reference="org/Mini LM"),
        resolved_revision="7" * 40, framework=registry.FRAMEWORK_TRANSFORMERS, licence="apache-2.0",
        suggested_model="mini-lm", download_size_bytes=90 * 1024**2, warnings=["notes.bin is left out"],
        metadata=registry.Metadata(task_type="feature-extraction", output_dimensions=384, tags=["bert", "en"]),
    )  # fmt: skip
    found.metadata.fields.update({"pooling": "mean"})
    for number, name in enumerate(names):
        variant = found.variants.add(name=name, precision="fp16", is_default=number == 0)
        variant.files.add(path=f"onnx/{name}.onnx", size_bytes=number, sha256="a" * 64)
        variant.files.add(path="日本語/unbekannt.txt")
    return found


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert run(["fetch", *arguments]) == exit_code
    said = capsys.readouterr()
    return Text.from_ansi(said.out).plain, Text.from_ansi(said.err).plain


def test_what_lies_at_a_source_is_shown_with_its_variants_and_the_command_that_fetches_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("InspectSource", answer(found_in("plain", "quantized")))
    out, err = printed(capsys, "inspect", "huggingface", "org/Mini LM", "--sha256", "a" * 64)
    for fact in ("transformers", "feature-extraction", "384", "bert, en", "pooling=mean", "apache-2.0", "mini-lm"):
        assert fact in out
    assert re.search(r"to download +90.0 MiB, 2 files", out)
    assert re.search(r"^plain +fp16 +2 +unknown +default$", out, re.MULTILINE)
    assert re.search(r"^onnx/plain.onnx +0 B +a+$", out, re.MULTILINE), "nothing is a size, too"
    assert re.search(r"^日本語/unbekannt.txt +unknown", out, re.MULTILINE)
    assert "warning: notes.bin is left out" in err
    assert "penstock fetch start huggingface 'org/Mini LM' --name mini-lm" in err
    (request,) = server.calls["InspectSource"]
    assert request.source.sha256 == "a" * 64


def test_the_files_shown_are_those_of_the_variant_that_was_asked_for(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_in("default", "quantized")
    found.source.variant = "quantized"
    server.on("InspectSource", answer(found))
    out, err = printed(capsys, "inspect", "huggingface", "org/m", "--variant", "quantized")
    assert "onnx/quantized.onnx" in out
    assert "onnx/default.onnx" not in out
    assert "--variant quantized --name mini-lm" in err
    assert server.calls["InspectSource"][0].source.variant == "quantized"


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_shown_fits_the_terminal(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    names = [f"variant-{number}-{'x' * 4 * number}" for number in range(20)]
    server.on("InspectSource", answer(found_in(*names)))
    huge = pb.FetchProgress(done_bytes=1, total_bytes=1000 * 1024**4)
    jobs = [
        job_in("DOWNLOADING", source="s3", progress=huge, cancel_requested=True),
        job_in("FAILED", "UNSUPPORTED_FRAMEWORK", target=pb.FetchTarget(model="m" * 128, version="v" * 128)),
        job_in("COMPLETED", progress=pb.FetchProgress(total_bytes=0)),
        job_in("DOWNLOADING", progress=pb.FetchProgress(done_bytes=5 * 1024)),
    ]
    jobs[1].source.reference = LONG
    jobs[2].source.reference = "s3://bücket/日本語のモデル/モデル.onnx"
    server.on("ListFetchJobs", answer(pb.ListFetchJobsResponse(jobs=jobs)))
    server.on("GetFetchJob", answer(pb.GetFetchJobResponse(job=jobs[1])))
    for arguments in (["inspect", "huggingface", LONG], ["list"], ["get", ID]):
        out, err = printed(capsys, *arguments)
        lines = [line for line in (out + err).splitlines() if not line.startswith("  penstock ")]  # to be copied
        widths = {Text(line).cell_len for line in lines}
        assert max(widths) <= width, out
        assert "cancelling" in out or arguments != ["list"]
        assert "0% of 1000.0 TiB" in out or arguments != ["list"]
        assert re.search(r" 5.0 KiB( |$)", out, re.MULTILINE) or arguments != ["list"], "of a size that nobody knows"


def test_a_start_says_all_that_was_asked_for_and_no_secret_stands_on_the_line(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("CreateFetchJob", answer(pb.CreateFetchJobResponse(job=job_in("QUEUED"))))
    Path("hook.key").write_text("a-secret-of-sixteen\n")
    monkeypatch.setenv("HOOK", "https://hooks.example.org/secret/path")
    _, err = printed(
        capsys, "start", "url", "https://example.org/m.onnx", "--name", "m", "--version", "v7", "--variant", "q4",
        "--revision", "main", "--sha256", "b" * 64, "--framework", "onnx", "--stage", "candidate", "--at", "2h",
        "--webhook-env", "HOOK", "--webhook-secret-file", "hook.key", "--label", "team=growth",
        "--field", "pooling=cls", "--field", "max_tokens=512",
    )  # fmt: skip
    (asked,) = server.calls["CreateFetchJob"]
    assert (asked.source.revision, asked.source.variant, asked.source.sha256) == ("main", "q4", "b" * 64)
    assert (asked.target.model, asked.target.version, dict(asked.target.labels)) == ("m", "v7", {"team": "growth"})
    assert dict(asked.target.metadata.fields) == {"pooling": "cls", "max_tokens": 512}
    assert (asked.target.framework, asked.target.stage) == (registry.FRAMEWORK_ONNX, registry.STAGE_CANDIDATE)
    assert asked.webhook == pb.FetchWebhook(url="https://hooks.example.org/secret/path", secret="a-secret-of-sixteen")
    due = asked.due_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(hours=1) < due <= timedelta(hours=2)
    assert f"penstock fetch watch {ID}" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--webhook", "https://a.example", "--webhook-env", "HOOK"], "give one of --webhook, --webhook-file"),
        (["--webhook-secret-env", "HOOK"], "give --webhook, too"),
        (["--webhook", "https://a.example", "--webhook-secret-env", "UNSET"], "UNSET is not set"),
        (["--at", "soon"], "'soon' is no time"),
        (["--stage", "live"], "'live' is not one of 'development', 'candidate', 'staging'."),
        (["--name", ""], "it is empty; without --name"),
        (["--varaint", "q4"], "--variant"),
    ],
)
def test_what_is_written_wrongly_is_refused_before_anything_is_asked(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOOK", "https://hooks.example.org/secret/path")
    monkeypatch.setenv("COLUMNS", "200")
    _, err = printed(capsys, "start", "url", "https://example.org/m.onnx", *arguments, exit_code=2)
    assert sentence in err
    assert server.calls == {}


def test_where_the_framework_is_not_told_the_command_asks_for_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_in("default")
    found.ClearField("framework")
    server.on("InspectSource", answer(found))
    _, err = printed(capsys, "inspect", "url", "https://example.org/m.zip")
    assert "--name mini-lm --framework …" in err


def test_a_time_that_has_passed_is_said_to_have(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("CreateFetchJob", answer(pb.CreateFetchJobResponse(job=job_in("QUEUED"))))
    _, err = printed(capsys, "start", "url", "https://example.org/m.onnx", "--at", "2020-01-01T00:00Z")
    assert "has passed: it begins at once" in err
    _, err = printed(capsys, "start", "url", "https://example.org/m.onnx", "--at", "2h")
    assert "has passed" not in err


def test_of_what_there_is_not_the_right_list_shows_which_there_are(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetFetchJob", fail(errors.NotFound("there is no job 'zzz'", reason="JOB_NOT_FOUND")))
    _, err = printed(capsys, "get", "zzz", exit_code=3)
    assert err.endswith("there is no job 'zzz'; `penstock fetch list` shows which there are [JOB_NOT_FOUND]\n")
    server.on("GetFetchSchedule", fail(errors.NotFound("there is no schedule", reason="SCHEDULE_NOT_FOUND")))
    _, err = printed(capsys, "schedule", "get", "zzz", exit_code=3)
    assert "`penstock fetch schedule list` shows which there are" in err


def test_what_failed_is_not_shown_as_a_version(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    target = pb.FetchTarget(model="b", version="v1")
    listed = [job_in("FAILED", "SECURITY", target=target), job_in("QUEUED", target=target)]
    server.on("ListFetchJobs", answer(pb.ListFetchJobsResponse(jobs=listed)))
    out, _ = printed(capsys, "list")
    assert [re.search(r" (b( v1)?) ", line)[1] for line in out.splitlines()[1:]] == ["b", "b v1"]  # type: ignore[index]


def test_a_further_version_of_a_model_is_said_to_be_one(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    result = pb.FetchResult(model="iris", version="v1", deployment_number=3)
    server.on("GetFetchJob", answer(pb.GetFetchJobResponse(job=job_in("COMPLETED", result=result))))
    out, _ = printed(capsys, "get", ID)
    assert "iris v1, 0 B downloaded; it is number 3 of the model's" in out


def test_the_help_of_the_group_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = printed(capsys, "--help")
    assert "penstock fetch start url https://example.org/flowers.onnx --watch" in out


@pytest.mark.parametrize("group", [[], ["schedule"]])
def test_one_letter_means_the_same_in_every_list(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], group: list[str]
) -> None:
    server.on("ListFetchJobs", answer(pb.ListFetchJobsResponse()))
    server.on("ListFetchSchedules", answer(schedules.ListFetchSchedulesResponse()))
    printed(capsys, *group, "list", "-n", "7", "-m", "iris")
    (asked,) = server.calls["ListFetchSchedules" if group else "ListFetchJobs"]
    assert (asked.page_size, asked.model) == (7, "iris")


@pytest.mark.parametrize("option", ["--state", "--status", "-s"])
def test_fetches_are_listed_by_state_model_and_source(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    server.on("ListFetchJobs", answer(pb.ListFetchJobsResponse(jobs=[job_in("FAILED", "NETWORK_ERROR")])))
    out, _ = printed(capsys, "list", option, "failed", "--name", "m", "--source", "url")
    (asked,) = server.calls["ListFetchJobs"]
    assert (list(asked.states), asked.model, asked.source) == ([pb.FETCH_JOB_STATE_FAILED], "m", "url")
    assert re.search(rf"{ID} +failed .+ NETWORK_ERROR +url", out)


def going() -> list[pb.FetchJob]:
    """Give a fetch as it goes on: queued, downloading, broken off, tried again, done."""
    jobs = [job_in("QUEUED")]
    for count in (1, 2, 3):
        progress = pb.FetchProgress(
            done_bytes=count * GIBIBYTE, total_bytes=4 * GIBIBYTE, bytes_per_second=38 * 1024**2, remaining_ms=99_000,
            done_files=1, total_files=12,
        )  # fmt: skip
        jobs.append(job_in("DOWNLOADING", progress=progress, attempt_count=1))
    broken = job_in("PENDING", "NETWORK_ERROR", progress=jobs[-1].progress, attempt_count=1)
    broken.error.retry_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=5))
    done = job_in("COMPLETED", attempt_count=2, result=pb.FetchResult(model="m", version="v1"))
    return [*jobs, broken, done]


def test_where_nobody_watches_lines_say_how_far_it_is_and_what_it_waits_for(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [job for job in going() for _ in range(2)]
    server.on("WatchFetchJob", stream(*(pb.WatchFetchJobResponse(job=job) for job in twice)))
    out, err = printed(capsys, "watch", ID)
    lines = [line.removeprefix(f"{ID}: ") for line in err.splitlines()]
    assert lines[:3] == [
        "queued, waits for a worker",
        "downloading, 1.0 GiB of 4.0 GiB, 38.0 MiB/s, 1m 39s left, 1 of 12 files",
        "downloading, 2.0 GiB of 4.0 GiB, 38.0 MiB/s, 1m 39s left, 1 of 12 files",
    ]
    assert re.fullmatch(r"pending, .*waits to be tried again at [\d:]+, it went wrong\. \[NETWORK_ERROR\]", lines[4])
    assert lines[-1] == "to predict with it: penstock predict m --version v1"
    assert out.startswith(f"{ID}  completed")


def test_on_a_terminal_a_bar_has_the_bytes_the_speed_and_the_time_left(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = going()[:4]
    assert follow(Output(as_json=False, no_color=True), watched, title="mini v1") == watched[-1]
    (line,) = {line.strip() for line in Text.from_ansi(capsys.readouterr().err).plain.splitlines() if "3.0" in line}
    assert re.fullmatch(r"mini v1 downloading [━╸ ]+ 3.0 GiB of 4.0 GiB 38.0 MiB/s 1m 39s left", line)


def test_watching_gives_programs_a_document_a_line(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("WatchFetchJob", stream(*(pb.WatchFetchJobResponse(job=job) for job in going())))
    out, err = printed(capsys, "watch", ID, "--json")
    assert [json.loads(line)["state"] for line in out.splitlines()] == [
        "queued", "downloading", "downloading", "downloading", "pending", "completed",
    ]  # fmt: skip
    assert err == ""


def test_a_fetch_that_failed_ends_its_watching_with_1_and_what_helps(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("WatchFetchJob", stream(pb.WatchFetchJobResponse(job=job_in("FAILED", "RATE_LIMITED"))))
    _, err = printed(capsys, "watch", ID, exit_code=1)
    assert f"what helps: wait until the source has had its rest; then `penstock fetch retry {ID}`" in err
    assert err.splitlines()[-1] == f"penstock: fetch {ID} failed [RATE_LIMITED]", "what went wrong is said above"
    printed(capsys, "watch", ID, "--json", exit_code=1)


def test_who_stops_watching_is_told_that_the_fetch_goes_on(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    server.on("WatchFetchJob", stream(pb.WatchFetchJobResponse(job=job_in("QUEUED"))))
    monkeypatch.setattr("penstock.cli.fetch_progress.follow", interrupt)
    _, err = printed(capsys, "watch", ID, exit_code=130)
    assert f"it goes on; to see it again: penstock fetch watch {ID}; to end it: penstock fetch cancel {ID}" in err
    assert "CancelFetchJob" not in server.calls


def test_a_watch_says_once_that_the_fetcher_is_away_and_how_to_see_the_fetch_again(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.fetcher.WATCH_PATIENCE_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    gone = errors.Unavailable("the fetcher stops")
    server.on("WatchFetchJob", stream(pb.WatchFetchJobResponse(job=job_in("QUEUED")), then=gone), fail(gone))
    for more in ([], ["--json"]):
        _, err = printed(capsys, "watch", ID, *more, exit_code=6)
        assert err.count("the fetcher gives no answer, trying again") == (not more)
        assert f"fetch {ID} goes on when it is back: `penstock fetch watch {ID}` shows it again [UNAVAILABLE]" in err


def raised_by_jobs() -> set[str]:
    """Give the reasons for which a job can fail: those of the code that does it, and those of jobs in general."""
    fetcher = Path(faults.__file__).parent
    code = [fetcher / "faults.py", fetcher / "work.py", fetcher / "registering.py", fetcher / "throttle.py"]
    code += [*(fetcher / "downloading").rglob("*.py"), *(fetcher / "sources").rglob("*.py")]
    code.append(fetcher.parent / "common/pinned.py")
    said = "".join(path.read_text() for path in code if path.name != "servicer.py")
    raised = set(re.findall(r'reason(?: = |=)"([A-Z0-9_]+)"', said)) - {"DOWNLOAD_DAMAGED"}  # it becomes SOURCE_CHANGED
    return raised | faults.RETRYABLE | {"HARD_LIMIT", "INTERNAL"}


def test_every_reason_has_its_help_and_every_setting_that_it_names_exists() -> None:
    said = (Path(pb.__file__).parents[7] / "protos/penstock/api/fetcher/v1/fetch_jobs.proto").read_text()
    (comment,) = re.findall(r"// A stable reason\.(.*?)string reason", said, re.DOTALL)
    reasons = set(re.findall(r"\b[A-Z0-9]{2,}_[A-Z0-9_]+\b|SECURITY|UNAUTHORIZED|INTERNAL", comment))
    assert reasons == raised_by_jobs()
    by_itself = {reason for reason in faults.RETRYABLE if reason.startswith(("DATABASE", "LOCK", "TRANSACTION"))}
    assert reasons - by_itself == set(fetch_advice._BY_REASON)
    settings = {f"PENSTOCK_{name.upper()}" for name in FetcherSettings.model_fields}
    sources = ("url", "filesystem", "huggingface", "s3", "oci")
    for reason in reasons:
        for source in sources:
            advice = help_for(reason, sources_pb2.SourceReference(source=source, reference="r"), Ways(again="AGAIN"))
            assert set(re.findall(r"PENSTOCK_[A-Z0-9_]+", advice)) <= settings, advice
            assert not re.search(r"[{}]", advice)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (job_in("QUEUED"), "penstock fetch watch"),
        (job_in("PENDING", "NETWORK_ERROR"), "it is tried again by itself"),
        (job_in("COMPLETED", result=pb.FetchResult(model="m", version="v1")), "penstock predict m --version v1"),
        (job_in("CANCELLED"), f"penstock fetch retry {ID}"),
        (job_in("FAILED", "SECURITY"), "PENSTOCK_FETCHER_ALLOWED_HOSTS"),
        (job_in("FAILED", "SECURITY", source="filesystem"), "PENSTOCK_FETCHER_ROOTS"),
        (job_in("FAILED", "UNSUPPORTED_FRAMEWORK"), "penstock fetch inspect url https://example.org/m.onnx"),
        (job_in("FAILED", "DATABASE_UNAVAILABLE"), f"penstock fetch retry {ID}"),
        (job_in("FAILED", "UNKNOWN_VARIANT", source="huggingface"), "start another with one of them as its --variant"),
        (job_in("FAILED", "REGISTRY_UNAUTHORIZED"), "PENSTOCK_SERVICE_TOKEN"),
    ],
)
def test_the_next_thing_to_do_is_said_of_every_state(job: pb.FetchJob, said: str) -> None:
    assert said in next_step(job)
