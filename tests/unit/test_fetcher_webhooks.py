"""What a webhook says of a fetch that has ended, to programs and to people."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.common.jobs import Failure, Job, JobState, Progress
from services.common.outbox import MAX_BODY_BYTES
from services.fetcher.models import FetchResult, FetchSpec, Plan, Reference, RemoteFile
from services.fetcher.notifications.document import fetch_document, schedule_document
from services.fetcher.schedules.models import Schedule, Trouble, When
from tests.webhook_page import section, told_types, types_of

NOW = datetime(2026, 11, 21, 19, 0, 0, 123_456, tzinfo=UTC)
MESSAGE_ID = UUID("019a3f5e-7c00-7abc-8def-0123456789ab")
PLAN = Plan('"one"', (RemoteFile("a.onnx", "https://example.org/a.onnx", '"one"', size_bytes=1204881),))
PAYLOAD: dict[str, Any] = {
    "source": "url", "reference": "https://example.org/a.onnx", "revision": "", "variant": "", "sha256": "",
    "target": b"", "model": "a", "version": "v1", "webhook": None, "webhook_message_id": None, "phase": "PROCESSING",
    "plan": PLAN.columns(), "reused_bytes": 0, "done_files": 1, "bytes_per_second": 0, "schedule_id": None,
}  # fmt: skip
COMPLETED = Job(
    job_id=UUID("019a3f5e-7c00-7abc-8def-000000000001"), create_number=1, state=JobState.COMPLETED, priority=5,
    limit_key="", created_by="ci", request_id="", body_sha256="", create_time=NOW, due_time=NOW, start_time=NOW,
    claim_time=NOW, end_time=NOW, attempt=1, max_attempts=3, token=1, worker_id="w", lease_expire_time=None,
    cancel_time=None, soft_limit_ms=None, hard_limit_ms=None, queued_ms=0,
    progress=Progress(done=1204881, total=1204881), claim_count=0, update_time=NOW, error=Failure(),
    result=asdict(FetchResult("a", "v1", 1, existed=False, downloaded_bytes=1204881)), read_time=NOW, payload=PAYLOAD,
)  # fmt: skip
FAILED = replace(
    COMPLETED, state=JobState.FAILED, result=None, error=Failure("NETWORK_ERROR", "it broke off", "for operators"),
    payload={**PAYLOAD, "schedule_id": MESSAGE_ID},
)  # fmt: skip
NEVER_BEGUN = replace(
    COMPLETED, state=JobState.CANCELLED, result=None, start_time=None, claim_time=None, attempt=0,
    payload={**PAYLOAD, "plan": None, "model": "", "version": ""},
)  # fmt: skip


def told(job: Job) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(fetch_document(job, MESSAGE_ID))
    return document


def test_the_document_is_what_receivers_were_told() -> None:
    assert told(COMPLETED) == {
        "type": "fetch",
        "version": 1,
        "id": str(MESSAGE_ID),
        "time": "2026-11-21T19:00:00.123Z",
        "title": "COMPLETED: a v1, from url https://example.org/a.onnx",
        "text": (
            "a v1, from url https://example.org/a.onnx\n1,204,881 bytes were downloaded.\n"
            "Job: penstock fetch get 019a3f5e-7c00-7abc-8def-000000000001"
        ),
        "state": "COMPLETED",
        "job": {
            "id": "019a3f5e-7c00-7abc-8def-000000000001",
            "source": "url",
            "reference": "https://example.org/a.onnx",
            "revision": "",
            "variant": "",
            "resolved_revision": '"one"',
            "model": "a",
            "version": "v1",
            "file_count": 1,
            "total_bytes": 1204881,
            "done_bytes": 1204881,
            "attempt_count": 1,
            "schedule_id": None,
            "created_by": "ci",
            "create_time": "2026-11-21T19:00:00.123Z",
            "start_time": "2026-11-21T19:00:00.123Z",
            "end_time": "2026-11-21T19:00:00.123Z",
        },
        "error": None,
        "result": {
            "model": "a",
            "version": "v1",
            "deployment_number": 1,
            "existed": False,
            "downloaded_bytes": 1204881,
            "warnings": [],
        },
    }


def test_a_time_that_made_no_fetch_is_told_as_the_page_shows_it() -> None:
    spec = FetchSpec(Reference("url", "https://example.org/a.onnx"), b"", model="a", version="v1")
    missed = Schedule(
        MESSAGE_ID, 1, "ci", NOW, spec, 5, 3, When(at_time=NOW), auto_update=False, enabled=True, next_time=NOW,
        try_count=0, try_time=None, retry_time=None, last_time=None, last_job_id=None, last_job=None,
        last_job_failed=False, last_revision="", last_check_time=None, trouble=None, trouble_time=None, read_time=NOW,
    )  # fmt: skip
    document = json.loads(schedule_document(missed, Trouble("SOURCE_DISABLED", "it is switched off"), MESSAGE_ID))
    example = json.loads(section("### Of a fetch that was not made").partition("```json\n")[2].partition("```")[0])
    assert document["title"] == "FAILED: a v1, from url https://example.org/a.onnx"
    assert document["text"].splitlines()[1:] == [
        "SOURCE_DISABLED: it is switched off", f"Schedule: penstock fetch schedule get {MESSAGE_ID}"
    ]  # fmt: skip
    assert document["schedule"]["at_time"] == "2026-11-21T19:00:00.123Z"
    assert types_of([document]) == types_of([example])
    for part in ("schedule", "error"):
        assert types_of([document[part]]) == types_of([example[part]])


def test_the_page_for_receivers_says_of_each_field_the_type_that_is_sent() -> None:
    sent = [told(job) for job in (COMPLETED, FAILED, NEVER_BEGUN)]
    example = json.loads(section("## Of a fetch").partition("```json\n")[2].partition("```")[0])
    message, job, error, result = told_types(section("## Of a fetch"))
    assert types_of(sent) == message
    assert types_of([each["job"] for each in sent]) == job
    assert types_of([each["error"] for each in sent if each["error"]]) == error
    assert types_of([each["result"] for each in sent if each["result"]]) == result
    completed = sent[0]
    assert list(example) == list(completed), "the example is whole, and in order"
    assert list(example["job"]) == list(completed["job"])
    assert list(example["result"]) == list(completed["result"])


@pytest.mark.parametrize(
    ("job", "title", "said"),
    [
        (COMPLETED, "COMPLETED: a v1, from url https://example.org/a.onnx", "1,204,881 bytes were downloaded."),
        (FAILED, "FAILED: a v1, from url https://example.org/a.onnx", "NETWORK_ERROR: it broke off"),
        (NEVER_BEGUN, "CANCELLED: url https://example.org/a.onnx", "Somebody wished its end."),
    ],
)
def test_people_read_what_happened(job: Job, title: str, said: str) -> None:
    document = told(job)
    assert document["title"] == title
    assert said in document["text"].splitlines()
    assert "for operators" not in json.dumps(document)


def test_a_version_that_was_there_already_is_named_in_the_job_as_well() -> None:
    found = asdict(FetchResult("a", "v1", 1, existed=True, downloaded_bytes=0))
    job = told(replace(COMPLETED, result=found, payload={**PAYLOAD, "model": "", "version": ""}))["job"]
    assert (job["model"], job["version"]) == ("a", "v1")


@pytest.mark.parametrize("most", ["\U0001f642", '"'])
def test_the_longest_document_is_sent(most: str) -> None:
    """Whoever could not be told could not end either: within an envelope, where a quote takes more, it still fits."""
    longest = {**PAYLOAD, "reference": most * 2_048, "revision": most * 256, "variant": most * 256}
    result = asdict(FetchResult("a", "v1", 1, existed=True, downloaded_bytes=0, warnings=[most * 5_000] * 50))
    for job in (
        replace(FAILED, error=Failure("X" * 100, most * 2_000), payload=longest),
        replace(COMPLETED, result=result, payload=longest),
    ):
        document = fetch_document(job, MESSAGE_ID).decode()
        assert len(json.dumps(document, ensure_ascii=False).encode()) < MAX_BODY_BYTES - 16 * 1024
        assert len(told(job)["title"]) == 200
