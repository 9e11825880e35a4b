"""What the supervisor remembers for the workers that come later, and what it forgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.inference.settings import InferenceSettings
from services.inference.shared_memory import control
from services.inference.shared_memory.regions import Regions
from services.inference.workers import exchange, replies
from services.inference.workers.children import WORKER, Child, Slot
from services.inference.workers.commands import Commands, Decision
from services.inference.workers.exchange import Remembered
from services.inference.workers.place import Place
from services.inference.workers.supervisor import Supervisor

OK: dict[str, Any] = {"result": {}}
REFUSED = {"error": {"kind": "NotFound", "message": "there is none", "reason": "NONE"}}


class HeardWire:
    """The supervisor's end of a wire, which keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, frame: bytes) -> bool:
        self.sent.append(json.loads(frame[5:]))
        return True


class Workers:
    """A supervisor with two workers that are played here; `says` is what each of them replies, by its number."""

    def __init__(self, folder: Path) -> None:
        self.supervisor = Supervisor(InferenceSettings(), [], 2)
        self.wires = [HeardWire(), HeardWire()]
        self.says: dict[int, dict[str, Any]] = {0: OK, 1: OK}
        for number, wire in enumerate(self.wires):
            child = Child(None, wire, 0.0)  # type: ignore[arg-type] # no process is looked at here
            child.joined = True
            self.supervisor.workers.append(Slot("worker", WORKER, Place(number, 2, 1, 3, 1, 1, ()), child))
        self.commands = Commands()
        control.add_commands(self.commands, Regions(folder))

    def send(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have the first worker send a command to both, and give the supervisor's answer."""
        first = self.supervisor.workers[0]
        assert first.child is not None
        decides = replies.decision_document(self.commands.decides(name, arguments))
        said = {"type": "broadcast", "id": 1, "name": name, "arguments": arguments, "decides": decides, "timeout_s": 5}
        for wire in self.wires:
            wire.sent.clear()
        self.supervisor._hear(first, first.child, json.loads(json.dumps(said)))
        for number, wire in enumerate(self.wires):
            for command in [each for each in wire.sent if each["type"] == "command"]:
                slot = self.supervisor.workers[number]
                assert slot.child is not None
                reply = {"type": "reply", "id": command["id"], "worker": number, **self.says[number]}
                self.supervisor._hear(slot, slot.child, reply)
        (answer,) = [each for each in self.wires[0].sent if each["type"] == "answer"]
        return answer

    def register(self, name: str) -> dict[str, Any]:
        return self.send(control.REGISTER, {"name": name, "key": "k", "offset_bytes": 0, "size_bytes": 1})

    def unregister(self, name: str) -> dict[str, Any]:
        return self.send(control.UNREGISTER, {"name": name})

    @property
    def remembered(self) -> list[str]:
        """The regions that a new worker is told of."""
        commands = self.supervisor._remembered.commands
        assert {each["name"] for each in commands} <= {control.REGISTER}
        return [each["arguments"]["name"] for each in commands]


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(tmp_path)


def test_what_is_undone_leaves_nothing_behind_however_often(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_REMEMBERED", 2)
    workers.register("stays")
    for number in range(5):
        assert "replies" in workers.register(f"r{number}")
        assert "replies" in workers.unregister(f"r{number}")
    assert workers.remembered == ["stays"]
    workers.register("*")  # a name like any other
    assert workers.remembered == ["stays", "*"]
    workers.unregister("")
    assert workers.remembered == []


def test_when_all_places_are_taken_what_is_not_new_is_still_decided(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_REMEMBERED", 1)
    workers.register("a")
    assert workers.register("b")["error"]["reason"] == "COMMANDS_EXHAUSTED"
    assert workers.remembered == ["a"]
    assert "replies" in workers.register("a")
    assert "replies" in workers.unregister("a")
    assert "replies" in workers.register("b")


def test_what_every_worker_refused_is_not_remembered_and_undoes_nothing(workers: Workers) -> None:
    workers.register("a")
    workers.says = {0: REFUSED, 1: REFUSED}
    workers.register("b")
    workers.unregister("a")
    assert workers.remembered == ["a"]
    workers.says = {0: REFUSED, 1: OK}
    workers.register("b")
    assert workers.remembered == ["a", "b"]


def test_of_what_decides_the_same_the_last_is_kept_and_what_is_more_general_ends_it() -> None:
    remembered = Remembered()
    for key, value in ((("log",), 1), (("memory", "a"), 2), (("memory", "b"), 3), (("log",), 4)):
        remembered.take(Decision(key), "set", {"value": value})
    assert [each["arguments"]["value"] for each in remembered.commands] == [2, 3, 4]
    remembered.take(Decision(("memory", "a"), keeps=False), "forget", {})
    assert [each["arguments"]["value"] for each in remembered.commands] == [3, 4]
    remembered.take(Decision(("memory",), keeps=False), "forget", {})
    assert [each["arguments"]["value"] for each in remembered.commands] == [4]
