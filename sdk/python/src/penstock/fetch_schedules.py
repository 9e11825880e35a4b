"""Fetches that begin by themselves: once at a time, or again and again by cron."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as jobs
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.channels import Connection
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.stubs import FetcherStub
from penstock.values import enum_number, to_timestamp


class FetchSchedulesClient:
    """Schedules, by id."""

    def __init__(self, connection: Connection[FetcherStub]) -> None:
        self._connection = connection

    def create(
        self,
        source: str,
        reference: str,
        *,
        at: datetime | None = None,
        cron: str = "",
        time_zone: str = "",
        auto_update: bool = False,
        model: str = "",
        version: str = "",
        revision: str = "",
        variant: str = "",
        sha256: str = "",
        framework: registry.Framework.ValueType | str | None = None,
        stage: registry.Stage.ValueType | str | None = None,
        approved_by: str = "",
        note: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        metadata: registry.Metadata | None = None,
        priority: int = 0,
        max_attempts: int = 0,
        webhook: str = "",
        webhook_secret: str = "",
        request_id: str = "",
    ) -> pb.FetchSchedule:
        """Make a schedule that creates jobs at its times; what is not named here is as `FetcherClient.start` has it.

        Args:
            source: one of `FetcherClient.sources`.
            reference: what to fetch, in the source's own terms.
            at: once, at this time, which must be aware; or `cron`.
            cron: five fields: minute, hour, day of the month, month, day of the week; once in 5 minutes at most.
            time_zone: the IANA name of the zone that `cron` is read in; empty: UTC.
            auto_update: fetch only where the source has another commit, ETag or digest than before; the new version
                enters CANDIDATE. Only with `cron`.
            model: into which model; empty: what the source suggests.
            version: what the version is called, with `at`; with `cron` each fetch makes its own.
            revision: a branch, a tag, a commit or a digest; empty: the newest.
            variant: such as quantized; empty: the default.
            sha256: the digest that the only file must have; not with `auto_update`.
            framework: None: by the files' names.
            stage: None: DEVELOPMENT, and with `auto_update` CANDIDATE, which then is the only one.
            approved_by: who approved the stage.
            note: why.
            description: what it is.
            labels: for search.
            metadata: goes before what the source says.
            priority: of its jobs: 1 goes first, 9 last; 0: 5.
            max_attempts: of its jobs: 1 to 20; 0: 3.
            webhook: where JSON is posted each time a job ends; empty: nowhere.
            webhook_secret: what that is signed with, 16 to 256 characters; empty: it is not signed.
            request_id: the same again returns the first result for 7 days; empty: one is made.

        Raises:
            InvalidArgument: the service refuses a field; `violations` names it.
            FailedPrecondition: it leads where the service must not go (SECURITY), or the source is off
                (SOURCE_DISABLED).
            ResourceExhausted: this key has too many (TOO_MANY_SCHEDULES).
        """
        target = jobs.FetchTarget(
            model=model,
            version=version,
            framework=enum_number("framework", registry.Framework, framework),
            stage=enum_number("stage", registry.Stage, stage),
            approved_by=approved_by,
            note=note,
            description=description,
            labels=labels or {},
        )
        if metadata is not None:
            target.metadata.CopyFrom(metadata)
        request = pb.CreateFetchScheduleRequest(
            source=sources_pb2.SourceReference(
                source=source, reference=reference, revision=revision, variant=variant, sha256=sha256
            ),
            target=target,
            at_time=to_timestamp("at", at),
            time_zone=time_zone,
            auto_update=auto_update,
            priority=priority,
            max_attempts=max_attempts,
            request_id=request_id or uuid7(),
        )
        if cron:
            request.cron = cron
        if webhook or webhook_secret:
            request.webhook.CopyFrom(jobs.FetchWebhook(url=webhook, secret=webhook_secret))
        return self._connection.unary(self._connection.stub.CreateFetchSchedule, request).schedule

    def get(self, schedule_id: str) -> pb.FetchSchedule:
        """Give a schedule as it stands; raises NotFound (SCHEDULE_NOT_FOUND)."""
        request = pb.GetFetchScheduleRequest(id=schedule_id)
        return self._connection.unary(self._connection.stub.GetFetchSchedule, request).schedule

    def list(
        self, *, model: str = "", source: str = "", enabled: bool | None = None, page_size: int = 0
    ) -> Iterator[pb.FetchSchedule]:
        """List schedules, the newest first, page by page as they are wanted; `enabled` None: on and off."""

        def fetch(token: str) -> pb.ListFetchSchedulesResponse:
            request = pb.ListFetchSchedulesRequest(
                model=model, source=source, enabled=enabled, page_size=page_size, page_token=token
            )
            return self._connection.unary(self._connection.stub.ListFetchSchedules, request)

        for page in pages(fetch):
            yield from page.schedules

    def enable(self, schedule_id: str) -> pb.FetchSchedule:
        """Switch a schedule on; what passed while it was off is not made up for.

        Raises:
            NotFound: SCHEDULE_NOT_FOUND.
            FailedPrecondition: its only time has passed (TIME_PASSED).
        """
        return self._set(schedule_id, enabled=True)

    def disable(self, schedule_id: str) -> pb.FetchSchedule:
        """Switch a schedule off: it creates no job; one that runs goes on. Raises NotFound (SCHEDULE_NOT_FOUND)."""
        return self._set(schedule_id, enabled=False)

    def delete(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay. Raises NotFound (SCHEDULE_NOT_FOUND)."""
        request = pb.DeleteFetchScheduleRequest(id=schedule_id)
        self._connection.unary(self._connection.stub.DeleteFetchSchedule, request)

    def _set(self, schedule_id: str, *, enabled: bool) -> pb.FetchSchedule:
        request = pb.SetFetchScheduleEnabledRequest(id=schedule_id, enabled=enabled)
        return self._connection.unary(self._connection.stub.SetFetchScheduleEnabled, request).schedule
