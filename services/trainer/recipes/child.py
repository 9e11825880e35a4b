"""The process of a run: `… child SETTINGS`, started in the run's folder in a session of its own.

Two processes. The guard, which is started, imports nothing of what trains: it ends the whole group as soon as whoever
started it has gone, however that came about, and ends as the recipe ended. Below it the recipe runs; what it prints is
the log, what it tells goes over a pipe of its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from services.common.errors import DomainError
from services.trainer.faults import TrainingFailed
from services.trainer.recipes.confinement import WANTED, Confinement, confine
from services.trainer.recipes.lines import Done, Failed, Said, line_of
from services.trainer.task import CheckpointWritten, Event, Flush, Log, Outcome, RunFolder, Task

_ACK_BYTES = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the executor asks for.

    Attributes:
        events: the descriptor to tell over.
        acks: the descriptor by which is heard that a checkpoint is kept.
        life: a descriptor that ends when whoever started us does.
        memory_limit_bytes: of all processes together; one may reserve somewhat more.
        file_limit_bytes: of each file.
        network: whether the recipe may connect.
        require_sandbox: run nothing where the kernel has less than the whole sandbox.
    """

    events: int
    acks: int
    life: int
    memory_limit_bytes: int
    file_limit_bytes: int
    network: bool = False
    require_sandbox: bool = False

    def to_json(self) -> str:
        """Write them as the child's argument."""
        return json.dumps(asdict(self))


class Wire:
    """What the recipe tells: lines out, and for a checkpoint a byte back once it is kept."""

    def __init__(self, events: int, acks: int) -> None:
        self._events = events
        self._acks = acks
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Tell an event, and come back once it is heard; for a checkpoint, once it is kept."""
        if isinstance(event, Log):
            os.write(1, event.chunk)
            return
        if isinstance(event, Flush):  # nothing waits here
            return
        self.say(event)
        if isinstance(event, CheckpointWritten) and not os.read(self._acks, _ACK_BYTES):
            os._exit(1)  # nobody is there any more to keep it

    def say(self, said: Said) -> None:
        """Write a line, whole."""
        remaining = memoryview(line_of(said))
        with self._lock:
            while remaining:
                remaining = remaining[os.write(self._events, remaining) :]


def main() -> None:
    """Be the guard of a process that trains."""
    settings = Settings(**json.loads(sys.argv[1]))
    guard = os.getpid()
    # Before any thread is started, which no fork would carry over.
    recipe = os.fork()
    if recipe == 0:
        os.close(settings.life)
        _train(settings, guard)
    for descriptor in (settings.events, settings.acks):
        os.close(descriptor)
    threading.Thread(target=_end_with, args=(settings.life,), daemon=True).start()
    _, status = os.waitpid(recipe, 0)
    _end_as(status)


def _end_with(life: int) -> None:
    """Wait for the end of whoever started us, and end the group: ourselves, the recipe and what it has started."""
    with contextlib.suppress(OSError):
        while os.read(life, 1):
            pass
    os.killpg(0, signal.SIGKILL)


def _end_as(status: int) -> None:
    """End as the recipe did, so that our exit code is its own."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):  # of SIGKILL nothing can be set
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def _train(settings: Settings, guard_pid: int) -> None:
    """Do the task of this folder, say how it ended, and leave without clean-up: libraries hang in theirs."""
    wire = Wire(settings.events, settings.acks)
    folder = RunFolder(Path.cwd())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # whoever follows the log sees each line as it is printed
    code = 1
    try:
        wire.say(_confined(folder, settings, guard_pid) or _ended(folder, wire))
        code = 0
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _confined(folder: RunFolder, settings: Settings, guard_pid: int) -> Failed | None:
    """Give up what training needs not, and say in the log what that was; Failed: it is not enough."""
    limits = Confinement(settings.memory_limit_bytes, settings.file_limit_bytes, settings.network)
    protections = confine(folder.path, limits, guard_pid)
    print("confined by:", ", ".join(protections) or "nothing", flush=True)  # noqa: T201 - this is the log
    missing = ", ".join(sorted(WANTED - set(protections)))
    if not (missing and settings.require_sandbox):
        return None
    sentence = (
        f"this machine demands a sandbox that its kernel does not give ({missing} is missing), so nothing was run; "
        "train on another kernel, or unset PENSTOCK_TRAINER_REQUIRE_SANDBOX"
    )
    return Failed("RECIPE_NOT_ALLOWED", sentence)


def _ended(folder: RunFolder, wire: Wire) -> Done | Failed:
    try:
        # Imported here, so that the guard has none of it.
        from services.trainer.recipes.catalogue import find_recipe
        from services.trainer.recipes.context import Context

        task = Task.read(folder.task)
        _leave(find_recipe(task.recipe).train(Context(task, folder, wire.tell)), folder)
    except TrainingFailed as error:
        return Failed(error.reason, error.message)
    except DomainError as error:
        traceback.print_exc()
        return Failed("TRAINING_FAILED", error.message)
    except MemoryError:
        traceback.print_exc()
        return Failed("OUT_OF_MEMORY", "the recipe asked for more memory than it may have")
    except OSError as error:
        traceback.print_exc()
        if error.errno == errno.EFBIG:
            return Failed("TOO_MUCH_OUTPUT", f"the recipe wrote a file that is too large: {_sentence(error)}")
        return _raised(error)
    except BaseException as error:  # noqa: BLE001 - whatever a stranger's code raises, SystemExit among it, is told
        traceback.print_exc()
        return _raised(error)
    return Done()


def _raised(error: BaseException) -> Failed:
    return Failed("TRAINING_FAILED", f"the recipe raised {_sentence(error)}; the run's log has the traceback")


def _leave(outcome: Outcome, folder: RunFolder) -> None:
    try:
        outcome.write(folder.outcome)
    except (ValueError, TypeError) as error:
        traceback.print_exc()
        raise TrainingFailed(f"the recipe's outcome can't be written: {error}", reason="INVALID_OUTCOME") from error


def _sentence(error: BaseException) -> str:
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


if __name__ == "__main__":
    main()
