"""What a webhook is sent of a fetch that has ended, or of a schedule whose only time made none: one JSON document.

Receivers rely on it, and docs/webhooks.md describes it: fields are added, none changes its meaning. Times are ISO 8601
in UTC, what is not known is null.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.common.jobs import Job, JobState
from services.fetcher.faults import RETRYABLE
from services.fetcher.models import FetchResult, FetchSpec
from services.fetcher.schedules.models import Schedule, Trouble

VERSION = 1
MAX_TITLE_CHARS = 200
MAX_WARNINGS, MAX_WARNING_CHARS = 20, 1_000
"""A document that is too large would keep its job from ending."""


def fetch_document(job: Job, message_id: UUID) -> bytes:
    """Write the document of a job that has ended."""
    spec = FetchSpec.of(job.payload)
    result = FetchResult(**job.result) if job.result is not None else None
    document = {
        "type": "fetch",
        "version": VERSION,
        "id": str(message_id),
        "time": _time(job.end_time),
        "title": _cut(" ".join(f"{job.state}: {_what(spec, result)}".split()), MAX_TITLE_CHARS),
        "text": _text(job, spec, result),
        "state": job.state.value,
        "job": _job(job, spec, result),
        "error": _error(job),
        "result": _result(result),
    }
    return _written(document)


def schedule_document(schedule: Schedule, trouble: Trouble, message_id: UUID) -> bytes:
    """Write the document of a schedule whose only time came and made no job."""
    spec = schedule.spec
    document = {
        "type": "fetch_schedule",
        "version": VERSION,
        "id": str(message_id),
        "time": _time(schedule.read_time),
        "title": _cut(" ".join(f"FAILED: {_what(spec, None)}".split()), MAX_TITLE_CHARS),
        "text": "\n".join(
            [
                _what(spec, None),
                f"{trouble.reason}: {trouble.message}",
                f"Schedule: penstock fetch schedule get {schedule.schedule_id}",
            ]
        ),
        "state": "FAILED",
        "schedule": _schedule(schedule),
        "error": {"reason": trouble.reason, "message": trouble.message, "retryable": trouble.reason in RETRYABLE},
    }
    return _written(document)


def _written(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _schedule(schedule: Schedule) -> dict[str, Any]:
    spec = schedule.spec
    return {
        "id": str(schedule.schedule_id),
        "source": spec.reference.source,
        "reference": spec.reference.reference,
        "revision": spec.reference.revision,
        "variant": spec.reference.variant,
        "model": spec.model,
        "version": spec.version,
        "at_time": _time(schedule.when.at_time),
        "created_by": schedule.created_by,
        "create_time": _time(schedule.create_time),
    }


def _job(job: Job, spec: FetchSpec, result: FetchResult | None) -> dict[str, Any]:
    said, plan, named = spec.reference, spec.plan, result or spec
    return {
        "id": str(job.job_id),
        "source": said.source,
        "reference": said.reference,
        "revision": said.revision,
        "variant": said.variant,
        "resolved_revision": plan.revision if plan else "",
        "model": named.model,
        "version": named.version,
        "file_count": len(plan.files) if plan else 0,
        "total_bytes": plan.size_bytes if plan else None,
        "done_bytes": job.progress.done,
        "attempt_count": job.attempt,
        "schedule_id": str(schedule_id) if (schedule_id := job.payload.get("schedule_id")) else None,
        "created_by": job.created_by,
        "create_time": _time(job.create_time),
        "start_time": _time(job.start_time),
        "end_time": _time(job.end_time),
    }


def _error(job: Job) -> dict[str, Any] | None:
    if job.state is not JobState.FAILED:
        return None
    return {
        "reason": job.error.reason,
        "message": job.error.message,
        "retryable": job.error.reason in RETRYABLE,
    }


def _result(result: FetchResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "model": result.model,
        "version": result.version,
        "deployment_number": result.deployment_number,
        "existed": result.existed,
        "downloaded_bytes": result.downloaded_bytes,
        "warnings": _warnings(result),
    }


def _warnings(result: FetchResult) -> list[str]:
    return [_cut(warning, MAX_WARNING_CHARS) for warning in result.warnings[:MAX_WARNINGS]]


def _what(spec: FetchSpec, result: FetchResult | None) -> str:
    """Name the version, as far as it has a name, and where it came from."""
    name = f"{result.model} {result.version}" if result else f"{spec.model} {spec.version}".strip()
    origin = f"{spec.reference.source} {spec.reference.reference}"
    return f"{name}, from {origin}" if name else origin


def _text(job: Job, spec: FetchSpec, result: FetchResult | None) -> str:
    """Say the same to people, in plain text."""
    lines = [_what(spec, result)]
    if result is not None:
        lines.append(
            "It was there already." if result.existed else f"{result.downloaded_bytes:,} bytes were downloaded."
        )
        lines += _warnings(result)
    elif job.state is JobState.FAILED:
        lines.append(f"{job.error.reason}: {job.error.message}")
    else:
        lines.append("Somebody wished its end.")
    lines.append(f"Job: penstock fetch get {job.job_id}")
    return "\n".join(lines)


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str, most_chars: int) -> str:
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"
