"""Loading, unloading and listing on every worker: two of them here, in one process, with caches of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from json import dumps, loads

import pytest

from services.common.errors import FailedPrecondition, NotFound
from services.inference.control.control import LIST, LOAD, PIN, UNLOAD, SessionCommands, SessionControl
from services.inference.following.catalog import Catalog, CatalogVersion
from services.inference.following.preloading import Preloader
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.caches import SessionCaches
from services.inference.sessions.sessions import SessionCache
from services.inference.workers.commands import Arguments, Commands, Decision, Reply
from services.inference.workers.exchange import Remembered
from tests.serving import PlainLoader, plain_version, wait_until


class Workers:
    """Two workers; what is said to them and what they say travels as JSON."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.loaders = [PlainLoader(), PlainLoader()]
        limits = SessionLimits(budget_bytes=2**40, failure_backoff_s=1_000, max_failure_backoff_s=1_000)
        self.caches = [SessionCaches({"onnx": SessionCache(loader, limits)}) for loader in self.loaders]
        self.commands = [Commands(), Commands()]
        self.preloaders = [Preloader(catalog, caches, load_wait_s=10) for caches in self.caches]
        for caches, commands, preloader in zip(self.caches, self.commands, self.preloaders, strict=True):
            SessionCommands(catalog, caches, preloader).add_to(commands)

        self.remembered = Remembered()

    def send(self, name: str, arguments: Arguments, timeout_s: float) -> Sequence[Reply]:
        said = loads(dumps(arguments))
        if decision := self.commands[0].decides(name, said):
            self.remembered.take(decision, name, said)
        replies = [commands.carry_out(name, said, worker=number) for number, commands in enumerate(self.commands)]
        return [Reply(reply.worker, loads(dumps(reply.result)), reply.error) for reply in replies]


def version(model: str, name: str, number: int, *, ready: bool = True) -> CatalogVersion:
    resolved = replace(plain_version(f"{model}{name}", size_bytes=2**20), model=model, version=name)
    return CatalogVersion(
        model, name, number, "development", "READY" if ready else "FAILED", resolved if ready else None
    )


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog()
    catalog.replace(
        [version("a", "1", 1), version("a", "2", 2), version("b", "1", 1), version("c", "1", 1, ready=False)]
    )
    return catalog


@pytest.fixture
def workers(catalog: Catalog) -> Iterator[Workers]:
    workers = Workers(catalog)
    yield workers
    for caches in workers.caches:
        caches.close(1.0)


@pytest.fixture
def control(catalog: Catalog, workers: Workers) -> SessionControl:
    return SessionControl(catalog, workers, load_wait_s=10)


def names(control: SessionControl, model: str = "") -> list[tuple[str, str, int]]:
    return [(each.model, each.version, each.worker) for each in control.list_sessions(model).sessions]


def test_a_load_is_done_by_every_worker_once(control: SessionControl, workers: Workers) -> None:
    loaded = control.load("a", "", pin=False)
    assert [(each.model, each.version, each.worker, each.pinned) for each in loaded] == [
        ("a", "2", 0, False), ("a", "2", 1, False),
    ]  # fmt: skip
    control.load("a", "2", pin=True)
    assert [loader.began for loader in workers.loaders] == [1, 1]
    assert all(each.pinned for each in control.list_sessions("a").sessions)


def test_what_is_listed_is_of_all_workers_in_order(control: SessionControl) -> None:
    for model, name in (("b", "1"), ("a", "2"), ("a", "1")):
        control.load(model, name, pin=False)
    assert names(control) == [(*name, worker) for name in (("a", "1"), ("a", "2"), ("b", "1")) for worker in (0, 1)]
    assert names(control, "b") == [("b", "1", 0), ("b", "1", 1)]
    memory = control.list_sessions("")
    assert memory.used_bytes >= 6 * 2**20
    assert memory.budget_bytes == 2 * 2**40


def test_an_unload_takes_one_version_or_all_of_a_model(control: SessionControl) -> None:
    for model, name in (("a", "1"), ("a", "2"), ("b", "1")):
        control.load(model, name, pin=True)
    assert control.unload("a", "1") == 2
    assert names(control, "a") == [("a", "2", 0), ("a", "2", 1)]
    control.load("a", "1", pin=False)
    assert control.unload("a", "") == 4
    assert control.unload("a", "") == 0
    assert names(control) == [("b", "1", 0), ("b", "1", 1)]


def test_a_failure_that_is_remembered_does_not_keep_an_operator_from_trying(
    control: SessionControl, workers: Workers
) -> None:
    workers.loaders[1].failures.append(FailedPrecondition("broken", reason="MODEL_LOAD_FAILED"))
    with pytest.raises(FailedPrecondition, match="broken"):
        control.load("a", "1", pin=False)
    assert names(control) == [("a", "1", 0)], "the first worker has it all the same"
    control.load("a", "1", pin=False)
    assert names(control) == [("a", "1", 0), ("a", "1", 1)]


@pytest.mark.parametrize(("model", "name"), [("nowhere", ""), ("a", "9"), ("nowhere", "1")])
def test_what_is_not_known_is_neither_loaded_nor_unloaded(control: SessionControl, model: str, name: str) -> None:
    with pytest.raises(NotFound):
        control.load(model, name, pin=False)
    with pytest.raises(NotFound):
        control.unload(model, name)


def test_what_is_not_ready_is_not_loaded(control: SessionControl) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        control.load("c", "1", pin=False)
    assert caught.value.reason == "VERSION_NOT_READY"
    assert control.unload("c", "") == 0


def test_a_worker_that_comes_later_keeps_what_was_pinned_and_not_unloaded_since(
    control: SessionControl, workers: Workers
) -> None:
    for model, name in (("a", "1"), ("a", "2"), ("b", "1")):
        control.load(model, name, pin=True)
    control.load("a", "1", pin=False)  # no word against the pin
    control.unload("a", "2")
    later = Workers(Catalog())
    for command in workers.remembered.commands:  # it has not heard of any model yet
        later.send(command["name"], command["arguments"], 1.0)
    preloader = later.preloaders[0]
    preloader.open()
    later.catalog.replace([version("b", "1", 1), version("a", "2", 2), version("a", "1", 1)])

    def pinned() -> list[tuple[str, str]]:
        sessions = later.caches[0].list_sessions()
        return sorted((each.version.model, each.version.version) for each in sessions if each.pinned)

    wait_until(lambda: pinned() == [("a", "1"), ("b", "1")])
    later.send(UNLOAD, {"model": "a", "version": ""}, 1.0)
    assert pinned() == [("b", "1")]
    assert [each["arguments"]["model"] for each in later.remembered.commands] == ["b"]
    preloader.close()
    for caches in later.caches:
        caches.close(1.0)


def test_what_is_unloaded_before_it_was_known_is_not_loaded_for_its_pin(workers: Workers) -> None:
    for model in ("a", "b"):
        workers.send(PIN, {"model": model, "version": "1"}, 1.0)
    workers.send(UNLOAD, {"model": "b", "version": "1"}, 1.0)
    workers.catalog.replace([version("b", "1", 1), version("a", "1", 1)])
    preloader = workers.preloaders[0]
    preloader.open()
    wait_until(lambda: any(each.pinned for each in workers.caches[0].list_sessions()))
    preloader.close()
    assert [each.version.model for each in workers.caches[0].list_sessions()] == ["a"]  # the last to be loaded


def test_only_a_load_takes_as_long_as_a_load(workers: Workers) -> None:
    (commands, _) = workers.commands
    assert [name for name in (LOAD, PIN, UNLOAD, LIST) if commands.is_slow(name)] == [LOAD]


def test_a_pin_is_decided_for_its_version_and_ended_by_an_unload_of_it_or_of_all(workers: Workers) -> None:
    (commands, _) = workers.commands
    pin = {"model": "a", "version": "1"}
    assert commands.decides(PIN, pin) == Decision((PIN, "a", "1"))
    assert commands.decides(UNLOAD, pin) == Decision((PIN, "a", "1"), keeps=False)
    assert commands.decides(UNLOAD, {**pin, "version": ""}) == Decision((PIN, "a"), keeps=False)
