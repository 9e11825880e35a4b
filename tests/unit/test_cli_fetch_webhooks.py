"""What `penstock fetch get` says of whom a fetch's end is told to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from tests.sdk import ScriptedServer, answer
from tests.unit import test_cli_fetch
from tests.unit.test_cli_fetch import ID, job_in, printed

server = test_cli_fetch.server
SHOWN = "https://hooks.example/***"
HOOK = pb.FetchWebhook(url=SHOWN, signed=True)


def told() -> Iterator[tuple[pb.FetchWebhook, str]]:
    """Webhooks, and what is said of them."""
    arrived, waits, given_up = pb.FetchWebhook(), pb.FetchWebhook(), pb.FetchWebhook()
    for each in (arrived, waits, given_up):
        each.CopyFrom(HOOK)
    arrived.delivery_time.FromDatetime(datetime.now(UTC) - timedelta(days=3))
    waits.last_error = given_up.last_error = "hooks.example answered 401 Unauthorized"
    given_up.given_up = True
    yield HOOK, f"{SHOWN}, signed\n"
    yield arrived, f"{SHOWN}, signed; it arrived 20"
    yield waits, f"{SHOWN}, signed; tried again: hooks.example answered 401 Unauthorized"
    yield given_up, f"{SHOWN}, signed; given up: hooks.example answered 401 Unauthorized"


@pytest.mark.parametrize(("webhook", "said"), list(told()), ids=["not ended", "arrived", "waits", "given up"])
def test_what_became_of_its_message_is_said(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], webhook: pb.FetchWebhook, said: str
) -> None:
    server.on("GetFetchJob", answer(pb.GetFetchJobResponse(job=job_in("COMPLETED", webhook=webhook))))
    out, _ = printed(capsys, "get", ID)
    assert said in "\n".join(line.rstrip() for line in out.splitlines())
