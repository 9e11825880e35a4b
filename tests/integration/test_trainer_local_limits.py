"""Recipes that misbehave: each is ended, with what it has started, and the reason says what it did."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import psutil
import pytest

from services.trainer.executing.local import LocalLimits
from services.trainer.executing.watching import Watch
from services.trainer.faults import TrainingFailed
from services.trainer.task import CheckpointWritten, Event, Log
from tests.executing import MIB, Ran, Stopped
from tests.serving import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    return Ran(tmp_path)


def failure(ran: Ran, code: str, **limits: float) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as failed:
        ran.execute(code, **limits)  # type: ignore[arg-type]
    return failed.value


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_what_hangs_is_ended_at_its_time_limit(ran: Ran) -> None:
    failed = failure(ran, "import time\ndef train(context): time.sleep(600)", time_limit_s=1.0)
    assert failed.reason == "TIME_LIMIT"
    assert "after 1 s" in failed.message


def test_what_eats_memory_is_ended_and_told_what_it_used(ran: Ran) -> None:
    code = """
def train(context):
    eaten = []
    while len(eaten) < 2_000:
        eaten.append(b"x" * 1024 ** 2)
    __import__("time").sleep(600)
"""
    failed = failure(ran, code, memory_limit_bytes=200 * MIB)
    assert failed.reason == "OUT_OF_MEMORY"
    assert "200 MiB are allowed" in failed.message


def test_a_path_too_long_to_be_counted_ends_the_run(ran: Ran) -> None:
    code = """
import os, time
def train(context):
    os.chdir(context.folder.path / "tmp")
    for _ in range(25):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    time.sleep(30)
    return left(context)
"""
    failed = failure(ran, code)
    assert failed.reason == "TOO_MUCH_OUTPUT"
    assert "File name too long" in failed.message


def test_a_run_whose_watch_fails_is_ended(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(watch: Watch) -> None:
        raise PermissionError("no /proc here")

    monkeypatch.setattr(Watch, "_memory", refused)
    failed = failure(ran, "import time\ndef train(context): time.sleep(30)\n")
    assert failed.reason == "TRAINING_FAILED"
    assert "no /proc here" in failed.message


def test_memory_counts_over_all_processes_of_a_run(ran: Ran) -> None:
    code = """
import os, time
def train(context):
    for _ in range(4):
        if os.fork() == 0:
            eaten = b"x" * (100 * 1024 ** 2)
            time.sleep(600)
    time.sleep(600)
"""
    assert failure(ran, code, memory_limit_bytes=250 * MIB).reason == "OUT_OF_MEMORY"


def test_memory_that_processes_share_counts_once(ran: Ran) -> None:
    code = """
import os, time
def train(context):
    shared = b"x" * (400 * 1024 ** 2)
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    os.wait()
    return left(context)
"""
    try:
        assert ran.execute(code, memory_limit_bytes=700 * MIB).framework == "ONNX"
    except TrainingFailed:
        # The kernel says what processes share of their own uid alone, unless we may trace others: then all counts.
        assert "uid:" in ran.log


def test_what_asks_for_far_too_much_at_once_gets_none_of_it(ran: Ran) -> None:
    code = "import numpy\ndef train(context): numpy.ones(2 ** 37)"
    failed = failure(ran, code, memory_limit_bytes=512 * MIB)
    assert failed.reason == "OUT_OF_MEMORY"
    assert "MemoryError" in ran.log


def test_a_gigabyte_of_log_is_heard_and_kept_nowhere(ran: Ran) -> None:
    heard_bytes = 0

    def hear(event: Event) -> None:
        nonlocal heard_bytes
        ran.events.clear()
        if isinstance(event, Log):
            heard_bytes += len(event.chunk)

    ran.on_event = hear
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = """
def train(context):
    for _ in range(1024):
        print("x" * (1024 ** 2 - 1))
    return left(context)
"""
    ran.execute(code)
    assert heard_bytes >= 1024**3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


def test_a_log_without_end_is_too_much(tmp_path: Path) -> None:
    ran = Ran(tmp_path, LocalLimits(max_log_bytes=MIB))
    code = "def train(context):\n    while True: print('again and again')"
    assert failure(ran, code).reason == "TOO_MUCH_OUTPUT"
    assert len(ran.log) <= MIB


@pytest.mark.parametrize(
    "code",
    [
        "def train(context): (context.artifact / 'model.onnx').write_bytes(bytes(9 * 1024 ** 2))",
        """
import time
def train(context):
    for number in range(9):
        (context.checkpoint / str(number)).write_bytes(bytes(1024 ** 2))
    time.sleep(600)
""",
        """
import time
def train(context):
    for number in range(3):
        with (context.folder.path / "tmp" / str(number)).open("wb") as sparse:
            sparse.truncate(3 * 1024 ** 2)
    time.sleep(600)
""",
        """
import time
def train(context):
    held = []
    for number in range(3):
        path = context.folder.path / "tmp" / str(number)
        held.append(path.open("wb"))
        held[-1].truncate(3 * 1024 ** 2)
        path.unlink()
    time.sleep(20)
    return left(context)
""",
    ],
    ids=["one large file", "many files", "files with holes", "files without a name"],
)
def test_files_beyond_the_limit_end_a_run(tmp_path: Path, code: str) -> None:
    ran = Ran(tmp_path, LocalLimits(max_output_bytes=8 * MIB))
    assert failure(ran, code).reason == "TOO_MUCH_OUTPUT"


def test_what_was_there_before_counts_for_nobody(tmp_path: Path) -> None:
    ran = Ran(tmp_path, LocalLimits(max_output_bytes=8 * MIB))
    (ran.folder.parent / "model.onnx").write_bytes(bytes(9 * MIB))
    code = "import time\ndef train(context):\n    time.sleep(1.5)\n    return left(context)"
    assert ran.execute(code).framework == "ONNX"


def test_a_daemon_that_a_recipe_leaves_behind_dies_with_it(ran: Ran) -> None:
    code = """
import os, time
def train(context):
    left_behind = os.fork()
    if left_behind == 0:
        daemon = os.fork()
        if daemon:
            context.report(1, {"pid": daemon})
            os._exit(0)
        time.sleep(600)
    os.waitpid(left_behind, 0)
    return left(context)
"""
    ran.execute(code)
    assert gone(int(ran.epochs[0].metrics["pid"]))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os\ndef train(context): os._exit(3)", "ended with code 3 and left no outcome"),
        ("import os\ndef train(context): os.abort()", "SIGABRT"),
        ("import sys\ndef train(context): sys.exit('enough')", "SystemExit: enough"),
        ("import ctypes\ndef train(context): ctypes.string_at(0)", "SIGSEGV"),
        ("def train(context) return 1", "SyntaxError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
    ],
)
def test_a_recipe_that_ends_otherwise_says_how(ran: Ran, code: str, sentence: str) -> None:
    failed = failure(ran, code)
    assert failed.reason == "TRAINING_FAILED"
    assert sentence in failed.message


def test_a_loss_that_is_no_number_says_so(ran: Ran) -> None:
    failed = failure(ran, "def train(context): context.report(7, {'loss': float('nan')})")
    assert failed.reason == "LOSS_NOT_FINITE"
    assert "in epoch 7" in failed.message


@pytest.mark.parametrize("line", ["nonsense", "x" * 600_000], ids=["no JSON", "long"])
def test_what_nobody_can_read_ends_a_run(ran: Ran, line: str) -> None:
    code = """
import os, time
def train(context):
    line = memoryview(context.parameters["line"].encode() + b"\\n")
    while line:
        line = line[os.write(context._tell.__self__._events, line):]
    time.sleep(600)
"""
    with pytest.raises(TrainingFailed) as failed:
        ran.execute(code, parameters={"line": line})
    assert failed.value.reason == "INVALID_OUTCOME"


def test_a_run_ends_while_its_checkpoint_is_being_kept(ran: Ran) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            ran.stopping.stop()

    ran.on_event = stop
    with pytest.raises(Stopped):
        ran.execute("def train(context):\n    context.save_checkpoint(1)\n    return left(context)")


def test_a_run_that_was_ended_before_does_not_begin(ran: Ran) -> None:
    ran.stopping.stop()
    with pytest.raises(Stopped):
        ran.execute("def train(context): return left(context)")
    assert ran.events == []


def test_a_checkpoint_is_kept_before_the_recipe_goes_on(ran: Ran) -> None:
    seen: list[str] = []

    def keep(event: Event) -> None:
        if isinstance(event, CheckpointWritten):
            seen.append((ran.folder.checkpoint / "state").read_text())

    ran.on_event = keep
    code = """
def train(context):
    for number in (1, 2, 3):
        (context.checkpoint / "state").write_text(str(number))
        context.save_checkpoint(number)
    return left(context)
"""
    ran.execute(code)
    assert seen == ["1", "2", "3"]
    assert ran.checkpoints == [1, 2, 3]


def test_who_cannot_be_told_ends_the_run(ran: Ran) -> None:
    class Deaf(Exception):
        pass

    def refuse(event: Event) -> None:
        if not isinstance(event, Log):
            raise Deaf

    ran.on_event = refuse
    code = "import time\ndef train(context):\n    context.report(1, {})\n    time.sleep(600)"
    with pytest.raises(Deaf):
        ran.execute(code)


def test_nothing_of_our_environment_reaches_a_recipe(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BLOB_SECRET_KEY", "a secret")
    ran.execute("import os\ndef train(context):\n    print(dict(os.environ))\n    return left(context)")
    assert "a secret" not in ran.log
    assert "PENSTOCK" not in ran.log
    assert str(ran.folder.path / "home") in ran.log


TRAINER = """
import sys
from functools import partial
from pathlib import Path
from tests.executing import Ran
ran = Ran(Path(sys.argv[1]))
ran.on_event = lambda event: hasattr(event, "metrics") and print(int(event.metrics["pid"]), flush=True)
ran.execute('''
import os, time
def train(context):
    for number in range(2):
        if os.fork() == 0:
            context.report(1, {"pid": os.getpid()})
            time.sleep(600)
    context.report(1, {"pid": os.getpid()})
    time.sleep(600)
''')
"""


def test_a_run_dies_with_the_trainer_however_it_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as trainer:
        assert trainer.stdout is not None
        pids = [int(trainer.stdout.readline()) for _ in range(3)]
        os.kill(trainer.pid, signal.SIGKILL)
    for pid in pids:
        wait_until(partial(gone, pid))


def test_ending_twice_from_many_threads_is_ending_once(ran: Ran) -> None:
    def stop(event: Event) -> None:
        if not isinstance(event, Log):
            threads = [threading.Thread(target=ran.stopping.stop) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    ran.on_event = stop
    with pytest.raises(Stopped):
        ran.execute("import time\ndef train(context):\n    context.report(1, {})\n    time.sleep(600)")
