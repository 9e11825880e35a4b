"""Configurations over the socket and a real PostgreSQL: who sets what, and where it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.api.monitoring.v1.configuration_pb2_grpc import ConfigurationServiceStub
from penstock.errors import Aborted, from_rpc
from services.common.errors import DeadlineExceeded, DomainError
from services.common.postgres import Database
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import Scope
from services.monitoring.configuration.store import ConfigurationStore
from tests.kit import bearing, write_keys
from tests.monitoring import TIMEOUT_S, eventually, reason, serve

INVALID = grpc.StatusCode.INVALID_ARGUMENT
HOURLY = pb.Configuration(drift=pb.DriftConfiguration(interval="1h"))


@contextmanager
def connected(database_url: str, **settings: Any) -> Iterator[ConfigurationServiceStub]:
    with serve(database_url, **settings) as running, grpc.insecure_channel(running.address) as channel:
        yield ConfigurationServiceStub(channel)


@pytest.fixture
def stub(clone_database: Callable[[str], str]) -> Iterator[ConfigurationServiceStub]:
    with connected(clone_database("monitoring")) as stub:
        yield stub


def get(stub: ConfigurationServiceStub, model: str = "", version: str = "") -> pb.GetConfigurationResponse:
    return stub.GetConfiguration(pb.GetConfigurationRequest(model=model, version=version), timeout=TIMEOUT_S)


def set_(stub: ConfigurationServiceStub, configuration: pb.Configuration, **fields: Any) -> pb.SetConfigurationResponse:
    request = pb.SetConfigurationRequest(configuration=configuration, **fields)
    return stub.SetConfiguration(request, timeout=TIMEOUT_S)


def changes(stub: ConfigurationServiceStub, **fields: Any) -> pb.ListConfigurationChangesResponse:
    return stub.ListConfigurationChanges(pb.ListConfigurationChangesRequest(**fields), timeout=TIMEOUT_S)


def test_a_version_says_over_its_model_and_its_model_over_all(stub: ConfigurationServiceStub) -> None:
    assert get(stub).effective.drift.interval == "6h"
    assert get(stub).own == pb.Configuration()
    set_(stub, pb.Configuration(drift=pb.DriftConfiguration(interval="2h", alpha=0.01)))
    set_(stub, pb.Configuration(drift=pb.DriftConfiguration(interval="90m")), model="iris")
    set_(stub, pb.Configuration(drift=pb.DriftConfiguration(enabled=False)), model="iris", version="2")
    found = get(stub, "iris", "2")
    assert (found.effective.drift.interval, found.effective.drift.alpha) == ("90m", 0.01)
    assert not found.effective.drift.enabled
    assert found.own == pb.Configuration(drift=pb.DriftConfiguration(enabled=False))
    assert get(stub, "iris", "1").effective.drift.enabled
    assert get(stub, "other").effective.drift.interval == "2h"
    assert set_(stub, pb.Configuration(), model="iris").effective.drift.interval == "2h", "emptied, it says nothing"
    assert get(stub, "iris").own == pb.Configuration()


def test_a_change_is_kept_with_who_and_why_and_what_was_before(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    write_keys(tmp_path / "keys.json", ada="operator", eve="viewer")
    with connected(clone_database("monitoring"), keys_file=tmp_path / "keys.json") as stub:
        ada, eve = bearing("ada"), bearing("eve")
        request = pb.SetConfigurationRequest(model="iris", configuration=HOURLY, note="it changes by the hour")
        with pytest.raises(grpc.RpcError) as refused:
            stub.SetConfiguration(request, metadata=eve, timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        stub.SetConfiguration(request, metadata=ada, timeout=TIMEOUT_S)
        stub.SetConfiguration(request, metadata=ada, timeout=TIMEOUT_S)
        (change,) = stub.ListConfigurationChanges(
            pb.ListConfigurationChangesRequest(), metadata=eve, timeout=TIMEOUT_S
        ).changes
        assert (change.model, change.version, change.changed_by) == ("iris", "", "ada")
        assert change.note == "it changes by the hour"
        assert (change.before, change.after) == (pb.Configuration(), HOURLY)
        assert change.HasField("time")


def test_changes_come_the_newest_first_and_page_by_page(stub: ConfigurationServiceStub) -> None:
    for number in range(5):
        set_(stub, pb.Configuration(drift=pb.DriftConfiguration(min_rows=100 + number)), model="iris")
    set_(stub, HOURLY, model="other")
    first = changes(stub, model="iris", page_size=3)
    second = changes(stub, model="iris", page_size=3, page_token=first.next_page_token)
    found = [change.after.drift.min_rows for change in (*first.changes, *second.changes)]
    assert found == [104, 103, 102, 101, 100]
    assert second.next_page_token == ""
    assert len(changes(stub).changes) == 6
    for bad in ({"page_size": -1}, {"page_token": "x"}, {"page_token": first.next_page_token, "model": "other"}):
        expected = "INVALID_PAGE_SIZE" if "page_size" in bad else "INVALID_PAGE_TOKEN"
        assert reason(lambda bad=bad: changes(stub, **bad)) == (INVALID, expected)  # type: ignore[misc]


def test_what_contradicts_itself_is_refused_whole(stub: ConfigurationServiceStub) -> None:
    bad = pb.Configuration(
        drift=pb.DriftConfiguration(alpha=0.01), rollups=pb.RollupConfiguration(daily_retention="20d")
    )
    assert reason(lambda: set_(stub, bad)) == (INVALID, "INVALID_CONFIGURATION")
    assert get(stub).own == pb.Configuration()
    assert reason(lambda: set_(stub, HOURLY, version="1")) == (INVALID, "MODEL_REQUIRED")
    assert reason(lambda: set_(stub, HOURLY, note="x" * 1_001)) == (INVALID, "INVALID_TEXT")
    assert list(changes(stub).changes) == []


def test_of_two_who_read_the_same_only_one_changes_it(stub: ConfigurationServiceStub) -> None:
    etag = get(stub, "iris").etag
    set_(stub, HOURLY, model="iris", etag=etag)
    with pytest.raises(grpc.RpcError) as caught:
        set_(stub, pb.Configuration(), model="iris", etag=etag)
    lost = from_rpc(caught.value, rpc="SetConfiguration", target="")
    assert (type(lost), lost.reason) == (Aborted, "ETAG_MISMATCH")
    assert not lost.retryable, "the same again would only hear the same"
    set_(stub, pb.Configuration(), model="iris", etag=get(stub, "iris").etag)


def test_of_many_at_once_with_one_etag_exactly_one_wins(stub: ConfigurationServiceStub) -> None:
    etag, barrier = get(stub).etag, threading.Barrier(6)
    won: list[int] = []
    lost: list[grpc.StatusCode] = []

    def change(number: int) -> None:
        barrier.wait()
        try:
            set_(stub, pb.Configuration(drift=pb.DriftConfiguration(min_rows=100 + number)), etag=etag)
        except grpc.RpcError as error:
            lost.append(error.code())
        else:
            won.append(number)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), set(lost)) == (1, {grpc.StatusCode.ABORTED})
    assert get(stub).own.drift.min_rows == 100 + won[0]


def test_a_change_holds_on_every_replica_within_seconds(clone_database: Callable[[str], str]) -> None:
    url = clone_database("monitoring")
    with ExitStack() as stack:
        stub = stack.enter_context(connected(url))
        database = stack.enter_context(Database(url))
        elsewhere = Configurations(ConfigurationStore(database), lambda: pytest.fail("nothing is changed here"))
        assert elsewhere.effective("iris", "1").drift.min_rows == 50
        set_(stub, pb.Configuration(drift=pb.DriftConfiguration(min_rows=77)), model="iris")
        eventually(lambda: elsewhere.effective("iris", "1").drift.min_rows == 77)
        assert elsewhere.effective("other").drift.min_rows == 50


def test_what_a_model_says_is_held_against_what_is_to_hold_for_all(stub: ConfigurationServiceStub) -> None:
    set_(stub, pb.Configuration(quality=pb.QualityConfiguration(stale_after="12h")), model="iris")
    short = pb.Configuration(quality=pb.QualityConfiguration(window="6h"))
    with pytest.raises(grpc.RpcError, match="for iris, which says more itself: nothing is stale after 12h") as caught:
        set_(stub, short)
    assert caught.value.code() is INVALID
    assert get(stub).own == pb.Configuration()


def test_who_changes_it_finds_it_so_at_once_though_another_is_just_looking(
    clone_database: Callable[[str], str],
) -> None:
    with Database(clone_database("monitoring")) as database:
        configurations = Configurations(ConfigurationStore(database), lambda: datetime.now(UTC))
        assert configurations.effective("iris").drift.min_rows == 50
        configurations.set(Scope("iris"), {"drift": {"min_rows": 77}}, etag="", note="")
        with configurations._lock:
            assert configurations.effective("iris").drift.min_rows == 77


class Hanging(ConfigurationStore):
    """A store whose database hangs from the second look on, until it gives up."""

    def __init__(self, database: Database, error: DomainError) -> None:
        super().__init__(database)
        self.asked, self.gives_up = threading.Semaphore(0), threading.Event()
        self._error = error

    def revision(self) -> int:
        self.asked.release()
        assert self.gives_up.wait(60)
        raise self._error


def test_while_the_database_hangs_one_call_asks_and_the_others_go_on_with_what_was_read_last(
    clone_database: Callable[[str], str],
) -> None:
    with Database(clone_database("monitoring")) as database:
        store = Hanging(database, DeadlineExceeded("it took too long"))
        configurations = Configurations(store, lambda: pytest.fail("nothing is changed here"))
        before = configurations.effective("iris")
        configurations._next_look_s = 0.0
        found: list[object] = []
        looking = threading.Thread(target=lambda: found.append(configurations.effective("iris")))
        looking.start()
        assert store.asked.acquire(timeout=60)
        assert [configurations.effective("iris") for _ in range(100)] == [before] * 100, "nobody waits"
        store.gives_up.set()
        looking.join()
        assert found == [before], "nor does the one that asked fail"
        assert not store.asked.acquire(blocking=False)


def test_who_changes_it_waits_for_no_look_that_hangs_and_finds_it_so(clone_database: Callable[[str], str]) -> None:
    with Database(clone_database("monitoring")) as database:
        store = Hanging(database, DeadlineExceeded("it took too long"))
        configurations = Configurations(store, lambda: datetime.now(UTC))
        configurations.effective("iris")
        configurations._next_look_s = 0.0
        looking = threading.Thread(target=configurations.effective)
        looking.start()
        assert store.asked.acquire(timeout=60)
        configurations.set(Scope("iris"), {"drift": {"min_rows": 77}}, etag="", note="")
        assert configurations.effective("iris").drift.min_rows == 77
        store.gives_up.set()
        looking.join()


class Late(ConfigurationStore):
    """A store that answers the second time only after something was changed here."""

    change: Callable[[], object] = staticmethod(lambda: None)

    def read(self) -> Any:
        found = super().read()
        self.change()
        return found


def test_what_was_read_before_a_change_of_ones_own_does_not_hold_after_it(clone_database: Callable[[str], str]) -> None:
    with Database(clone_database("monitoring")) as database:
        store = Late(database)
        stores = store, ConfigurationStore(database)
        here, elsewhere = (Configurations(each, lambda: datetime.now(UTC)) for each in stores)
        here.effective()
        elsewhere.set(Scope(), {"drift": {"min_rows": 66}}, etag="", note="")
        store.change = lambda: here.set(Scope(), {"drift": {"min_rows": 77}}, etag="", note="")
        here._next_look_s = 0.0
        assert here.effective().drift.min_rows == 77


def test_while_the_database_is_away_what_was_read_last_holds(clone_database: Callable[[str], str]) -> None:
    database = Database(clone_database("monitoring"))
    with database:
        configurations = Configurations(ConfigurationStore(database), lambda: pytest.fail("nothing is changed here"))
        before = configurations.effective("iris")
    assert configurations.effective("iris") == before
    configurations._next_look_s = 0.0
    assert configurations.effective("iris") == before
