"""The client of fetching: models brought from elsewhere into the registry."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.channels import Connection
from penstock.errors import PenstockError
from penstock.fetch_schedules import FetchSchedulesClient
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.retries import WATCH_PATIENCE_S, Broken, Tries
from penstock.stubs import FetcherStub
from penstock.values import enum_number, to_timestamp

TERMINAL = (pb.FETCH_JOB_STATE_COMPLETED, pb.FETCH_JOB_STATE_FAILED, pb.FETCH_JOB_STATE_CANCELLED)
INSPECT_TIMEOUT_S = 120.0


class FetcherClient:
    """Calls the fetcher."""

    def __init__(self, connection: Connection[FetcherStub]) -> None:
        self._connection = connection
        self._schedules = FetchSchedulesClient(connection)

    @property
    def schedules(self) -> FetchSchedulesClient:
        """Fetches that begin by themselves."""
        return self._schedules

    def sources(self) -> list[sources_pb2.Source]:
        """List the sources, and what a reference to each looks like."""
        request = sources_pb2.ListSourcesRequest()
        return list(self._connection.unary(self._connection.stub.ListSources, request).sources)

    def inspect(
        self, source: str, reference: str, *, revision: str = "", variant: str = "", sha256: str = ""
    ) -> sources_pb2.InspectSourceResponse:
        """Look at what a reference names, without its weights.

        Raises:
            InvalidArgument: the source, the reference or the variant is none (UNKNOWN_SOURCE, INVALID_REFERENCE,
                UNKNOWN_VARIANT).
            NotFound: nothing is there (MODEL_NOT_FOUND).
            FailedPrecondition: it may not be fetched (SECURITY, SOURCE_DISABLED, UNAUTHORIZED, FILE_TOO_LARGE), or
                could not be served (UNSUPPORTED_FRAMEWORK).
            ResourceExhausted: the source asks for patience (RATE_LIMITED).
            Unavailable: the source gives no answer (NETWORK_ERROR).
        """
        said = sources_pb2.SourceReference(
            source=source, reference=reference, revision=revision, variant=variant, sha256=sha256
        )
        request = sources_pb2.InspectSourceRequest(source=said)
        return self._connection.unary(self._connection.stub.InspectSource, request, timeout_s=INSPECT_TIMEOUT_S)

    def start(
        self,
        source: str,
        reference: str,
        *,
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
        due_time: datetime | None = None,
        webhook: str = "",
        webhook_secret: str = "",
        request_id: str = "",
    ) -> pb.FetchJob:
        """Queue a job that fetches a model and registers it.

        Args:
            source: one of `sources`.
            reference: what to fetch, in the source's own terms.
            model: into which model; empty: what the source suggests.
            version: what the version is called; empty: the one that was made of the same, else v1, v2 and so on.
            revision: a branch, a tag, a commit or a digest; empty: the newest.
            variant: such as quantized; empty: the default.
            sha256: the digest that the only file must have, in lowercase hex.
            framework: None: by the files' names.
            stage: None: DEVELOPMENT; STAGING at most, by the registry's guards. PRODUCTION is promoted by hand.
            approved_by: who approved the stage.
            note: why.
            description: what it is.
            labels: for search.
            metadata: goes before what the source says.
            priority: 1 goes first, 9 last; 0: 5.
            max_attempts: 1 to 20; 0: 3.
            due_time: not before this time, which must be aware.
            webhook: where JSON is posted each time the job ends; empty: nowhere. The job shows it without its path.
            webhook_secret: what that is signed with, 16 to 256 characters; empty: it is not signed.
            request_id: the same again returns the first result for 7 days; empty: one is made, so that a retry makes
                no second job.

        Raises:
            InvalidArgument: the service refuses a field; `violations` names it.
            FailedPrecondition: it leads where the service must not go (SECURITY), or the source is off
                (SOURCE_DISABLED).
            ResourceExhausted: too many jobs of this key have not ended (TOO_MANY_JOBS).
        """
        target = pb.FetchTarget(
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
        request = pb.CreateFetchJobRequest(
            source=sources_pb2.SourceReference(
                source=source, reference=reference, revision=revision, variant=variant, sha256=sha256
            ),
            target=target,
            priority=priority,
            max_attempts=max_attempts,
            due_time=to_timestamp("due_time", due_time),
            request_id=request_id or uuid7(),
        )
        if webhook or webhook_secret:
            request.webhook.CopyFrom(pb.FetchWebhook(url=webhook, secret=webhook_secret))
        return self._connection.unary(self._connection.stub.CreateFetchJob, request).job

    def get(self, job_id: str) -> pb.FetchJob:
        """Give a job as it stands; raises NotFound (JOB_NOT_FOUND)."""
        request = pb.GetFetchJobRequest(id=job_id)
        return self._connection.unary(self._connection.stub.GetFetchJob, request).job

    def watch(self, job_id: str, *, broken: Broken | None = None) -> Generator[pb.FetchJob, None, None]:
        """Give a job at once and whenever it changes, until it has ended.

        A stream that breaks is taken up again, for a minute at the least: a service that starts anew is back by then.
        `broken` is called once for each break that is about to be mended, with its error.

        Raises:
            NotFound: there is none such (JOB_NOT_FOUND).
            PenstockError: the service stayed away. The job goes on without; watch it again.
        """
        tries = Tries(self._connection.retry, patience_s=WATCH_PATIENCE_S, broken=broken)
        while True:
            request = pb.WatchFetchJobRequest(id=job_id)
            try:
                with closing(self._connection.stream(self._connection.stub.WatchFetchJob, request)) as answers:
                    for answer in answers:
                        tries.progressed()
                        yield answer.job
                        if answer.job.state in TERMINAL:
                            return
            except PenstockError as error:
                tries.again(error)

    def list(
        self,
        *,
        states: Iterable[pb.FetchJobState.ValueType | str] = (),
        model: str = "",
        source: str = "",
        schedule_id: str = "",
        page_size: int = 0,
    ) -> Iterator[pb.FetchJob]:
        """List jobs, the newest first, page by page as they are wanted; `states` by number or by name in any case."""
        wanted = [enum_number("states", pb.FetchJobState, state) for state in states]

        def fetch(token: str) -> pb.ListFetchJobsResponse:
            request = pb.ListFetchJobsRequest(
                states=wanted,
                model=model,
                source=source,
                schedule_id=schedule_id,
                page_size=page_size,
                page_token=token,
            )
            return self._connection.unary(self._connection.stub.ListFetchJobs, request)

        for page in pages(fetch):
            yield from page.jobs

    def cancel(self, job_id: str) -> pb.FetchJob:
        """Ask for a job's end; its transfer stops within a second. Raises FailedPrecondition (JOB_ENDED)."""
        request = pb.CancelFetchJobRequest(id=job_id)
        return self._connection.unary(self._connection.stub.CancelFetchJob, request).job

    def retry(self, job_id: str) -> pb.FetchJob:
        """Queue a FAILED or CANCELLED job again; raises FailedPrecondition (WRONG_STATE)."""
        request = pb.RetryFetchJobRequest(id=job_id)
        return self._connection.unary(self._connection.stub.RetryFetchJob, request).job

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended; raises FailedPrecondition (WRONG_STATE)."""
        self._connection.unary(self._connection.stub.DeleteFetchJob, pb.DeleteFetchJobRequest(id=job_id))
