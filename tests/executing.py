"""Runs of the local executor, as the work of a run has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.trainer.executing.local import LocalExecutor, LocalLimits
from services.trainer.task import CheckpointWritten, Epoch, Event, Log, Outcome, RunFolder, Task

MIB = 1024**2
LEFT = """
from services.trainer.task import Outcome

def left(context, **said):
    (context.artifact / "model.onnx").write_bytes(b"an artifact")
    return Outcome("ONNX", **said)
"""


class Stopped(Exception):
    """The run is to end."""


class Stopping:
    """A run that somebody may end."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def stop(self) -> None:
        self._stopped.set()
        for callback in list(self._callbacks):
            callback()

    def check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self.check()

    def on_stop(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        self._callbacks.remove(callback)


class Ran:
    """One run of a script: what it told."""

    def __init__(self, path: Path, limits: LocalLimits | None = None) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.make()
        self.stopping = Stopping()
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self._executor = LocalExecutor(limits)

    def execute(
        self,
        code: str,
        *,
        recipe: str = "script",
        parameters: Mapping[str, Any] | None = None,
        time_limit_s: float = 120.0,
        memory_limit_bytes: int = 1024 * MIB,
    ) -> Outcome:
        told = {**({"code": LEFT + code} if code else {}), **(parameters or {})}
        task = Task("a-run", "iris", recipe, told, time_limit_s=time_limit_s, memory_limit_bytes=memory_limit_bytes)
        return self._executor.execute(task, self.folder, self._tell, self.stopping)

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    @property
    def log(self) -> str:
        return b"".join(event.chunk for event in self.events if isinstance(event, Log)).decode()

    @property
    def epochs(self) -> list[Epoch]:
        return [event for event in self.events if isinstance(event, Epoch)]

    @property
    def checkpoints(self) -> list[int]:
        return [event.epoch for event in self.events if isinstance(event, CheckpointWritten)]
