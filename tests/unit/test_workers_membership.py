"""A worker among workers, with the supervisor played here."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from services.common.counters import create_file
from services.inference.settings import InferenceSettings
from services.inference.workers.membership import COMMAND_THREADS, Worker
from services.inference.workers.place import Place
from services.inference.workers.wires import Wire, message


def test_however_many_models_are_loading_a_worker_does_the_rest_of_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "_exit", lambda _: None)  # how it ends when the supervisor is gone
    ours, theirs = socket.socketpair()
    counts = create_file()
    worker = Worker(Place(0, 1, os.getpid(), theirs.detach(), 0, 0, [counts]), InferenceSettings())
    loaded = threading.Event()
    worker.commands.add("load", lambda _: {"loaded": loaded.wait(60)}, slow=True)
    worker.commands.add("unload", lambda _: {})
    joining = threading.Thread(target=worker.join)
    joining.start()
    wire = Wire(ours.detach())
    frames = (json.loads(payload) for _, payload in wire.frames())
    assert next(frames)["type"] == "join"
    wire.send(message({"type": "welcome", "commands": []}))
    joining.join()
    loads = range(2 * COMMAND_THREADS)
    for number in loads:
        wire.send(message({"type": "command", "id": number, "name": "load", "arguments": {}}))
    for name in ("unload", "metrics"):
        wire.send(message({"type": "command", "id": 99, "name": name, "arguments": {}}))
        reply = next(frames)
        assert (reply["type"], reply["id"]) == ("reply", 99)
    loaded.set()
    assert sorted(next(frames)["id"] for _ in loads) == list(loads)
    wire._socket.close()
    worker._thread.join(60)
    os.close(counts)
