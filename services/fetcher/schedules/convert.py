"""Protobuf ↔ values of schedules; requests are checked here."""

from __future__ import annotations

import hashlib
from datetime import datetime

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as jobs
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from services.common import timestamps
from services.common.errors import InvalidArgument
from services.common.outbox.webhooks import Webhook
from services.fetcher import convert
from services.fetcher.schedules import times
from services.fetcher.schedules.models import NewSchedule, Schedule, ScheduleFilters, When


def new_schedule(request: pb.CreateFetchScheduleRequest) -> tuple[NewSchedule, Webhook | None]:
    """Read a schedule to create, and who is told of its jobs' ends; raises InvalidArgument."""
    target = _target(request)
    job = jobs.CreateFetchJobRequest(
        source=request.source,
        target=target,
        priority=request.priority,
        max_attempts=request.max_attempts,
        request_id=request.request_id,
    )
    if request.HasField("webhook"):
        job.webhook.CopyFrom(request.webhook)
    fetch = convert.new_fetch(job)
    said = pb.CreateFetchScheduleRequest()
    said.CopyFrom(request)
    said.webhook.ClearField("secret")  # what is kept of it must not help to guess it
    new = NewSchedule(
        spec=fetch.spec,
        priority=fetch.priority,
        max_attempts=fetch.max_attempts,
        when=_when(request),
        auto_update=request.auto_update,
        request_id=request.request_id,
        body_sha256=hashlib.sha256(said.SerializeToString(deterministic=True)).hexdigest(),
    )
    return new, fetch.webhook


def filters(request: pb.ListFetchSchedulesRequest) -> ScheduleFilters:
    """Read which schedules are wanted."""
    enabled = request.enabled if request.HasField("enabled") else None
    return ScheduleFilters(model=request.model, source=request.source, enabled=enabled)


def schedule_proto(schedule: Schedule) -> pb.FetchSchedule:
    """Write a schedule as it stands."""
    spec, when = schedule.spec, schedule.when
    written = pb.FetchSchedule(
        id=str(schedule.schedule_id), source=convert.reference_proto(spec.reference),
        target=jobs.FetchTarget.FromString(spec.target), auto_update=schedule.auto_update, enabled=schedule.enabled,
        last_job_id=str(schedule.last_job_id or ""), last_revision=schedule.last_revision,
        created_by=schedule.created_by, priority=schedule.priority, max_attempts=schedule.max_attempts,
    )  # fmt: skip
    if when.at_time is not None:
        written.at_time.FromDatetime(when.at_time)
    else:
        written.cron, written.time_zone = when.cron, when.time_zone
    if spec.webhook is not None:
        written.webhook.CopyFrom(jobs.FetchWebhook(url=spec.webhook.shown_url, signed=spec.webhook.signed))
    if schedule.last_job is not None:
        written.last_job_state = convert.state_proto(schedule.last_job.state, schedule.last_job.phase)
    if schedule.trouble is not None:
        written.last_error.reason, written.last_error.message = schedule.trouble.reason, schedule.trouble.message
        if schedule.trouble_time is not None:
            written.last_error.time.FromDatetime(schedule.trouble_time)
    moments: dict[str, datetime | None] = {
        "next_time": schedule.retry_time or schedule.next_time, "last_time": schedule.last_time,
        "create_time": schedule.create_time, "last_check_time": schedule.last_check_time,
    }  # fmt: skip
    for name, time in moments.items():
        if time is not None:
            getattr(written, name).FromDatetime(time)
    return written


def _when(request: pb.CreateFetchScheduleRequest) -> When:
    kind = request.WhichOneof("when")
    if kind is None or (kind == "cron" and not request.cron.strip()):
        sentence = "required: at_time for once, or cron for again and again"
        raise InvalidArgument.field("when", sentence, reason="WHEN_REQUIRED")
    if kind == "cron":
        if request.time_zone:
            times.check_zone(request.time_zone)
        times.check_cron(request.cron)
        return When(cron=" ".join(request.cron.split()), time_zone=request.time_zone or "UTC")
    if request.time_zone:
        sentence = "only cron is read in a time zone; at_time is a point in time"
        raise InvalidArgument.field("time_zone", sentence, reason="INVALID_TIME_ZONE")
    if request.auto_update:
        sentence = "it looks again and again, and so needs cron"
        raise InvalidArgument.field("auto_update", sentence, reason="AUTO_UPDATE_WITHOUT_CRON")
    return When(at_time=timestamps.read("at_time", request.at_time))


def _target(request: pb.CreateFetchScheduleRequest) -> jobs.FetchTarget:
    """Give what becomes of each job's version; with auto_update it enters CANDIDATE, whose way on is people's."""
    target = jobs.FetchTarget()
    target.CopyFrom(request.target)
    if target.version and request.WhichOneof("when") == "cron":
        sentence = "each time makes a version of its own: v1, v2 and so on; leave it out, or fetch once, at a time"
        raise InvalidArgument.field("target.version", sentence, reason="VERSION_WITH_CRON")
    if not request.auto_update:
        return target
    if request.source.sha256:
        sentence = "another file has another digest: with auto_update none can be given"
        raise InvalidArgument.field("source.sha256", sentence, reason="DIGEST_WITH_AUTO_UPDATE")
    if target.stage not in (registry.STAGE_UNSPECIFIED, registry.STAGE_CANDIDATE):
        sentence = "with auto_update versions enter CANDIDATE, and go no further by themselves; leave it out"
        raise InvalidArgument.field("target.stage", sentence, reason="INVALID_STAGE")
    target.stage = registry.STAGE_CANDIDATE
    return target
