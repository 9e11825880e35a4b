"""What may be asked for in a schedule, field by field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as jobs
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as pb
from penstock.api.fetcher.v1.sources_pb2 import SourceReference
from penstock.api.registry.v1 import registry_pb2 as registry
from services.common.errors import InvalidArgument
from services.fetcher.schedules.convert import new_schedule

REVISION = "source.revision"
SOURCE = SourceReference(source="url", reference="https://example.org/flowers.onnx")


def asked(**more: Any) -> pb.CreateFetchScheduleRequest:
    return pb.CreateFetchScheduleRequest(**{"source": SOURCE, "cron": "0 3 * * *", **more})


def at(**more: Any) -> pb.CreateFetchScheduleRequest:
    return pb.CreateFetchScheduleRequest(source=SOURCE, at_time=Timestamp(seconds=1), **more)


def target(**more: Any) -> jobs.FetchTarget:
    return jobs.FetchTarget(**more)


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (asked(source=None), "source.source", "SOURCE_REQUIRED"),
        (asked(source=SourceReference(source="url")), "source.reference", "SOURCE_REQUIRED"),
        (asked(source=SourceReference(source="url", reference="x" * 2_049)), "source.reference", "INVALID_REFERENCE"),
        (
            asked(source=SourceReference(source="u", reference="x", revision="\n")),
            "source.revision",
            "INVALID_REFERENCE",
        ),
        (asked(source=SourceReference(source="u", reference="x", variant="\t")), "source.variant", "INVALID_REFERENCE"),
        (asked(source=SourceReference(source="u", reference="x", sha256="beef")), "sha256", "DIGEST_MALFORMED"),
        (asked(target=target(model="a b")), "target.model", "INVALID_NAME"),
        (asked(target=target(version="v1")), "target.version", "VERSION_WITH_CRON"),
        (at(target=target(version="/")), "target.version", "INVALID_NAME"),
        (asked(target=target(stage=registry.STAGE_PRODUCTION)), "target.stage", "INVALID_STAGE"),
        (asked(target=target(description="x" * 70_000)), "target", "TOO_LARGE"),
        (pb.CreateFetchScheduleRequest(source=SOURCE), "when", "WHEN_REQUIRED"),
        (asked(cron=""), "when", "WHEN_REQUIRED"),
        (asked(cron="often"), "cron", "INVALID_CRON"),
        (asked(cron="* * * * *"), "cron", "TOO_OFTEN"),
        (asked(cron="0 0 30 2 *"), "cron", "NEVER_DUE"),
        (asked(time_zone="Mars/Olympus"), "time_zone", "INVALID_TIME_ZONE"),
        (at(time_zone="UTC"), "time_zone", "INVALID_TIME_ZONE"),
        (pb.CreateFetchScheduleRequest(source=SOURCE, at_time=Timestamp(seconds=1 << 60)), "at_time", "INVALID_TIME"),
        (at(auto_update=True), "auto_update", "AUTO_UPDATE_WITHOUT_CRON"),
        (asked(webhook=jobs.FetchWebhook(secret="x" * 20)), "webhook.url", "INVALID_WEBHOOK"),
        (asked(webhook=jobs.FetchWebhook(url="https://x.org", secret="short")), "webhook.secret", "INVALID_WEBHOOK"),
        (asked(request_id="x" * 257), "request_id", "INVALID_REFERENCE"),
        (asked(priority=10), "priority", "OUT_OF_BOUNDS"),
        (asked(priority=-1), "priority", "OUT_OF_BOUNDS"),
        (asked(max_attempts=21), "max_attempts", "OUT_OF_BOUNDS"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    request_: pb.CreateFetchScheduleRequest, field: str, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        new_schedule(request_)
    assert (refused.value.violations[0].field, refused.value.reason) == (field, reason)


@pytest.mark.parametrize("stage", ["DEVELOPMENT", "STAGING", "PRODUCTION", "ARCHIVED"])
def test_what_updates_itself_enters_candidate_and_no_other_stage(stage: str) -> None:
    wanted = target(stage=registry.Stage.Value(f"STAGE_{stage}"))
    with pytest.raises(InvalidArgument) as refused:
        new_schedule(asked(auto_update=True, target=wanted))
    assert (refused.value.violations[0].field, refused.value.reason) == ("target.stage", "INVALID_STAGE")


def test_what_updates_itself_enters_candidate_although_nobody_says_so() -> None:
    new, _ = new_schedule(asked(auto_update=True, target=target(model="flowers")))
    assert jobs.FetchTarget.FromString(new.spec.target).stage == registry.STAGE_CANDIDATE
    plain, _ = new_schedule(asked(target=target(stage=registry.STAGE_STAGING)))
    assert jobs.FetchTarget.FromString(plain.spec.target).stage == registry.STAGE_STAGING


def test_what_updates_itself_has_no_digest_of_its_own() -> None:
    pinned = SourceReference(source="url", reference="https://example.org/a.onnx", sha256="0" * 64)
    with pytest.raises(InvalidArgument) as refused:
        new_schedule(asked(auto_update=True, source=pinned))
    assert refused.value.reason == "DIGEST_WITH_AUTO_UPDATE"


def test_what_is_not_said_has_the_defaults_of_a_fetch() -> None:
    new, webhook = new_schedule(asked(cron=" 0  3 * * * "))
    assert (new.priority, new.max_attempts, new.when.cron, new.when.time_zone) == (5, 3, "0 3 * * *", "UTC")
    assert webhook is None
    once, _ = new_schedule(at(target=target(version="v7")))
    assert (once.when.at_time, once.spec.version) == (datetime.fromtimestamp(1, UTC), "v7")


def test_a_secret_leaves_no_trace_in_what_tells_requests_apart() -> None:
    one, other = (
        new_schedule(asked(webhook=jobs.FetchWebhook(url="https://x.org/h", secret=secret * 20)))[0] for secret in "ab"
    )
    assert one.body_sha256 == other.body_sha256
    assert one.body_sha256 != new_schedule(asked(webhook=jobs.FetchWebhook(url="https://x.org/i")))[0].body_sha256
