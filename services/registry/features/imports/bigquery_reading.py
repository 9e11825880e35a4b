"""Queries of BigQuery: looked at before they run, bounded in what they may cost, and read page by page.

Nothing but `bigquery_access` imports this, and only when a query comes: it needs the extra `bigquery`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import google.auth
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.api_core.retry import Retry, if_transient_error
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.auth.exceptions import TransportError as AuthTransportError
from google.cloud import bigquery
from google.oauth2 import service_account

from services.common.errors import DomainError, FailedPrecondition, InvalidArgument, Unavailable
from services.registry.features.imports.bigquery_access import BigQueryAccess
from services.registry.features.imports.models import BigQuerySource, Block, SourceColumns
from services.registry.features.imports.row_reader import BLOCK_ROWS, RowReader
from services.registry.features.models import View

SCOPES: Final = ("https://www.googleapis.com/auth/bigquery",)
MAX_KEY_BYTES: Final = 1024 * 1024
CALL_TIMEOUT_S: Final = 20.0
RETRY_S: Final = 20.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
_FAULTS: Final = (GoogleAPICallError, RetryError, GoogleAuthError, requests.RequestException)
_PASSING: Final = frozenset(
    {
        "backendError", "internalError", "rateLimitExceeded", "quotaExceeded", "jobBackendError", "jobInternalError",
        "jobRateLimitExceeded", "tableUnavailable",
    }
)  # fmt: skip
"""Reasons of BigQuery that may be gone when one asks again."""


class BigQueryReading:
    """A query that BigQuery runs, in a project that the settings allow and with the credentials that they name."""

    def __init__(self, source: BigQuerySource, access: BigQueryAccess, *, timeout_ms: int) -> None:
        self._source = source
        self._access = access
        self._timeout_ms = timeout_ms
        self._stopped = threading.Event()
        self._retry = Retry(predicate=self._worth_another_try, initial=0.2, maximum=1.0, timeout=RETRY_S)

    def blocks(self, view: View, columns: SourceColumns, now_us: int) -> Iterator[Block]:
        """Give the query's rows, a page a block.

        Raises:
            InvalidArgument: QUERY_FAILED, TOO_LARGE, UNKNOWN_COLUMN, UNKNOWN_FEATURE, WRONG_TYPE, MISSING_VALUE,
                OUT_OF_BOUNDS.
            FailedPrecondition: PROJECT_NOT_ALLOWED, CREDENTIALS_UNUSABLE.
            Unavailable: BigQuery gives no answer (INPUT_UNAVAILABLE).
        """
        deadline = time.monotonic() + self._timeout_ms / 1_000
        try:
            with contextlib.closing(self._client()) as client:
                schema = self._looked_at(client)
                reader = RowReader([field.name for field in schema], view, columns, now_us)  # before anything is paid
                job = self._ran(client, deadline)
                if job is not None:
                    yield from self._pages(client, job, schema, reader, deadline)
        except _FAULTS as error:
            if not self._stopped.is_set():
                raise _meaning(error) from error

    def stop(self) -> None:
        """See `Reading.stop`; the thread that reads cancels the query itself."""
        self._stopped.set()

    def _client(self) -> bigquery.Client:
        options = ClientOptions(api_endpoint=self._access.endpoint) if self._access.endpoint else None
        return bigquery.Client(self._source.project, _credentials(self._access), client_options=options)

    def _looked_at(self, client: bigquery.Client) -> Sequence[bigquery.SchemaField]:
        """Have BigQuery say what the query would do, which costs nothing; gives its columns."""
        config = bigquery.QueryJobConfig(dry_run=True, use_legacy_sql=False, use_query_cache=False)
        plan = client.query(
            self._source.sql, job_config=config, retry=self._retry, timeout=CALL_TIMEOUT_S, job_retry=None
        )
        if plan.statement_type != "SELECT":
            kind = str(plan.statement_type)[:80]
            raise _refused(f"one SELECT is allowed, and this is {kind}; statements that write are never run")
        for table in plan.referenced_tables:
            self._access.check_project(table.project)
        would_read = plan.total_bytes_processed or 0
        if would_read > self._access.max_bytes_billed:
            raise _too_costly(f"the query would read {would_read:,} bytes", self._access.max_bytes_billed)
        return plan.schema or ()

    def _ran(self, client: bigquery.Client, deadline: float) -> bigquery.QueryJob | None:
        """Run the query to its end; gives None where nobody waits for it any more."""
        config = bigquery.QueryJobConfig(
            use_legacy_sql=False,
            maximum_bytes_billed=self._access.max_bytes_billed,
            job_timeout_ms=self._timeout_ms,  # it ends there, too, should this process die
            labels={"penstock": "feature-import"},
        )
        job = client.query(
            self._source.sql, job_config=config, retry=self._retry, timeout=CALL_TIMEOUT_S, job_retry=None
        )
        pause_s = FIRST_PAUSE_S
        try:
            while not job.done(retry=self._retry, timeout=CALL_TIMEOUT_S):
                if self._stopped.wait(pause_s):
                    return None
                self._check_time(deadline)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            if not job.done(reload=False):
                with contextlib.suppress(*_FAULTS):  # it ends by its own time-out then
                    job.cancel(retry=None, timeout=CALL_TIMEOUT_S)
        if job.error_result:
            raise self._failed(job.error_result)
        return job

    def _pages(
        self,
        client: bigquery.Client,
        job: bigquery.QueryJob,
        schema: Sequence[bigquery.SchemaField],
        reader: RowReader,
        deadline: float,
    ) -> Iterator[Block]:
        lists = [place for place, field in enumerate(schema) if field.mode == "REPEATED"]
        table = bigquery.Table(job.destination, schema=schema)
        pages = client.list_rows(table, page_size=BLOCK_ROWS, retry=self._retry, timeout=CALL_TIMEOUT_S).pages
        begin = 1
        for page in pages:
            if self._stopped.is_set():
                return
            self._check_time(deadline)
            rows = [_with_missing_lists(row.values(), lists) for row in page]
            if rows:
                yield reader.read(rows, begin)
                begin += len(rows)

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise self._too_slow()

    def _too_slow(self) -> InvalidArgument:
        return _refused(f"the query took longer than the {self._timeout_ms:,} ms that it may; ask for fewer rows")

    def _failed(self, result: dict[str, Any]) -> DomainError:
        reason, said = str(result.get("reason")), str(result.get("message"))
        if reason == "bytesBilledLimitExceeded":
            return _too_costly(f"BigQuery says: {said[:500]}", self._access.max_bytes_billed)
        if reason in ("stopped", "timeout"):
            return self._too_slow()
        return _answer(reason, said)

    def _worth_another_try(self, error: BaseException) -> bool:
        return not self._stopped.is_set() and isinstance(error, Exception) and if_transient_error(error)


def _credentials(access: BigQueryAccess) -> Any:
    if access.endpoint and access.endpoint.startswith("http://"):
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    try:
        if access.credentials_file:
            key = _key(access.credentials_file)
            return service_account.Credentials.from_service_account_info(key, scopes=SCOPES)  # type: ignore[no-untyped-call]
        return google.auth.default(scopes=SCOPES)[0]
    except (OSError, ValueError, GoogleAuthError) as error:
        raise _unusable(type(error).__name__) from error


def _key(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        found = json.loads(opened.read(MAX_KEY_BYTES))
    if not isinstance(found, dict):
        raise _unusable("the file is no key of a service account")
    return found


def _with_missing_lists(values: tuple[Any, ...], lists: Sequence[int]) -> tuple[Any, ...]:
    """BigQuery answers an array that is NULL as an empty one; which it was cannot be told, so both are missing."""
    if not lists:
        return values
    row = list(values)
    for place in lists:
        row[place] = row[place] or None
    return tuple(row)


def _meaning(error: Exception) -> DomainError:
    if isinstance(error, RetryError):
        error = error.cause or error
    if isinstance(error, GoogleAPICallError):
        code, told = int(error.code or 0), error.errors[0] if error.errors else {}
        if code == 401:
            return _unusable("BigQuery does not take them")
        if code >= 500 or code == 429:
            return _silent(type(error).__name__)
        return _answer(str(told.get("reason")), str(told.get("message") or error.message))
    if isinstance(error, RefreshError) and not error.retryable:
        return _unusable(type(error).__name__)
    if isinstance(error, GoogleAuthError) and not isinstance(error, AuthTransportError | RefreshError):
        return _unusable(type(error).__name__)
    return _silent(type(error).__name__)


def _answer(reason: str, said: str) -> DomainError:
    if reason in _PASSING:
        return _silent(reason)
    return _refused(f"BigQuery says: {said[:500]}")


def _refused(sentence: str) -> InvalidArgument:
    return InvalidArgument.field("big_query.sql", sentence, reason="QUERY_FAILED")


def _too_costly(sentence: str, most: int) -> InvalidArgument:
    advice = f"PENSTOCK_FEATURE_BIGQUERY_MAX_BYTES_BILLED allows {most:,}; ask for fewer columns or days"
    return InvalidArgument.field("big_query.sql", f"{sentence}; {advice}", reason="TOO_LARGE")


def _silent(why: str) -> Unavailable:
    return Unavailable(f"BigQuery gives no answer ({why}); try again later", reason="INPUT_UNAVAILABLE")


def _unusable(why: str) -> FailedPrecondition:
    # What stands in the file is not said: it is a key.
    sentence = (
        f"the service's credentials for BigQuery are of no use ({why}); its operator has to mend "
        "PENSTOCK_FEATURE_BIGQUERY_CREDENTIALS_FILE, or the application default credentials"
    )
    return FailedPrecondition(sentence, reason="CREDENTIALS_UNUSABLE")
