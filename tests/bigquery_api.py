"""A stand-in for BigQuery's REST API: it is Google's alone, and its emulator cannot be had where these run.

It knows queries by their text, and answers Google's own client as the API does: jobs that are looked at without being
run (dry runs), that run, fail and are cancelled, and their results page by page.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.certificates import Pair

TOKEN = "a token of Google's"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Query:
    """What a query gives. `columns`: name → type, `FLOAT64[]` for an array; `rows` as Python has them.

    `statement` and `tables` are what BigQuery would say that it is and reads; `error` is a reason and a sentence of a
    job that fails, `refusal` a status with them of one that is not even taken; `endless`: until it is cancelled.
    """

    columns: dict[str, str] = field(default_factory=dict)
    rows: Sequence[Sequence[Any]] = ()
    statement: str = "SELECT"
    tables: Sequence[str] = ("shop-project.sales.spending",)
    size_bytes: int = 1_000
    billed_bytes: int = 1_000
    error: tuple[str, str] | None = None
    refusal: tuple[int, str, str] | None = None
    endless: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The columns as the API writes them."""
        fields = [
            {"name": name, "type": kind.removesuffix("[]"), "mode": "REPEATED" if kind.endswith("[]") else "NULLABLE"}
            for name, kind in self.columns.items()
        ]
        return {"fields": fields}


@dataclass
class Warehouse:
    """What the API has, and what it was asked."""

    address: str = ""
    queries: dict[str, Query] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those that really ran."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and credentials of each request."""
    page_rows: int = 1_000_000
    """A page has so many rows at the most, however many were asked for."""
    broken: int = 0
    """So many requests are answered 503."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def runs(self, sql: str) -> bool:
        """Whether a job of this query was begun."""
        return any(job["query"] is self.queries[sql] for job in list(self.jobs.values()))

    def forget(self) -> None:
        """Begin anew."""
        for held in (self.queries, self.jobs, self.asked):
            held.clear()
        self.page_rows, self.broken = 1_000_000, 0

    def wait_cancelled(self) -> None:
        """Wait until the newest job is."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(job["cancelled"] for job in self.jobs.values()), timeout=60)

    def insert(self, project: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take a job."""
        asked = body["configuration"]["query"]
        assert asked["useLegacySql"] is False
        query = self.queries[asked["query"]]
        if query.refusal:
            status, reason, sentence = query.refusal
            return status, fault(status, reason, sentence)
        told: dict[str, Any] = {"statementType": query.statement, "totalBytesProcessed": str(query.size_bytes)}
        told |= {"referencedTables": [_table(each) for each in query.tables], "schema": query.schema}
        job = {**body, "statistics": {"query": told}, "status": {"state": "DONE"}}
        if body["configuration"].get("dryRun"):
            return 200, job
        job["cancelled"] = False
        job["query"] = query
        asked["destinationTable"] = {"projectId": project, "datasetId": "_hidden", "tableId": job_id(job)}
        del told["schema"]
        error = query.error
        if query.billed_bytes > int(asked["maximumBytesBilled"]):
            sentence = f"Query exceeded limit for bytes billed: {asked['maximumBytesBilled']}."
            error = ("bytesBilledLimitExceeded", sentence)
        if error:
            job["status"]["errorResult"] = {"reason": error[0], "message": error[1]}
        job["end"] = job["status"]
        job["status"] = {"state": "RUNNING"}
        self.jobs[job_id(job)] = job
        return 200, shown(job)

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        """Give a job, which is over when it is asked for, unless it is endless."""
        job = self.jobs[name]
        if not job["query"].endless:
            job["status"] = job["end"]
        return 200, shown(job)

    def cancel(self, name: str) -> tuple[int, dict[str, Any]]:
        """Cancel a job."""
        with self.changed:
            self.jobs[name]["cancelled"] = True
            self.changed.notify_all()
        return 200, {"job": shown(self.jobs[name])}

    def page(self, name: str, options: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Give some rows of a job's result."""
        assert options["formatOptions.useInt64Timestamp"] == ["True"]
        query: Query = self.jobs[name]["query"]
        begin = int(options.get("pageToken", ["0"])[0])
        end = begin + min(int(options["maxResults"][0]), self.page_rows)
        rows = [{"f": [{"v": _cell(value)} for value in row]} for row in query.rows[begin:end]]
        answer: dict[str, Any] = {"totalRows": str(len(query.rows)), "rows": rows}
        if end < len(query.rows):
            answer["pageToken"] = str(end)
        return 200, answer


def fault(status: int, reason: str, sentence: str) -> dict[str, Any]:
    """Write an error as the API does."""
    return {"error": {"code": status, "message": sentence, "errors": [{"reason": reason, "message": sentence}]}}


def job_id(job: dict[str, Any]) -> str:
    """Give a job's name."""
    return str(job["jobReference"]["jobId"])


def shown(job: dict[str, Any]) -> dict[str, Any]:
    """Give a job as the API shows it."""
    return {key: value for key, value in job.items() if key not in ("cancelled", "query", "end")}


def _table(name: str) -> dict[str, str]:
    return dict(zip(("projectId", "datasetId", "tableId"), name.split("."), strict=True))


def _cell(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [{"v": _cell(each)} for each in value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return str(round((value - _EPOCH).total_seconds()) * 1_000_000)
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        warehouse = self.server.warehouse
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        warehouse.asked.append((self.command, path, self.headers.get("Authorization", "")))
        if path == "/token":
            self._give(200, {"access_token": TOKEN, "expires_in": 3_600, "token_type": "Bearer"})
        elif warehouse.broken:
            warehouse.broken -= 1
            self._give(503, fault(503, "backendError", "try again"))
        else:
            self._give(*self._done(warehouse, path, body))

    def do_POST(self) -> None:
        self.do_GET()

    def _done(self, warehouse: Warehouse, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        match self.command, path.removeprefix("/bigquery/v2/").split("/"):
            case "POST", ["projects", project, "jobs"]:
                return warehouse.insert(project, json.loads(body))
            case "GET", ["projects", _, "jobs", name]:
                return warehouse.get(name)
            case "POST", ["projects", _, "jobs", name, "cancel"]:
                return warehouse.cancel(name)
            case "GET", ["projects", _, "datasets", "_hidden", "tables", name, "data"]:
                return warehouse.page(name, parse_qs(urlsplit(self.path).query))
        return 404, fault(404, "notFound", f"there is no {path}")

    def _give(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    warehouse: Warehouse
    daemon_threads = True


@contextmanager
def bigquery_api(pair: Pair | None = None) -> Iterator[Warehouse]:
    """Listen on loopback; with a certificate, over TLS."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert_file, pair.key_file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme, host = ("https", "localhost") if pair else ("http", "127.0.0.1")
    server.warehouse = Warehouse(f"{scheme}://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.warehouse
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
