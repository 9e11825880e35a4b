"""The validator's child with TensorFlow in it: what it says of good models, and what hostile ones get from it.

A Lambda layer that policy lets in is Python that runs in the child: as good as a hijacked TensorFlow.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from services.registry.validation.report import FailureReason, Signature, TensorSpec, ValidationReport
from services.registry.validation.validator import ValidationLimits, Validator
from tests.tensorflow import saved_models

# Each imports TensorFlow anew, which takes its time where others want the processor as well.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ON_LINUX = sys.platform.startswith("linux")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def validated(folder: Path, *allowed: str, timeout_s: float = 180.0) -> ValidationReport:
    limits = ValidationLimits(timeout_s=timeout_s, memory_limit_bytes=2**30)
    return Validator(limits, allowed=frozenset(allowed), require_sandbox=ON_LINUX).validate(folder, "tensorflow")


def test_a_saved_model_in_its_folder_is_opened_and_known(folder: Path) -> None:
    saved_models.linear(folder / "exported")
    report = validated(folder)
    assert report.ok, report
    assert report.signature == Signature(
        inputs=(TensorSpec("word", "BYTES", (-1,)), TensorSpec("x", "FP32", (-1, 4))),
        outputs=(TensorSpec("number", "INT32", (-1,)), TensorSpec("y", "FP32", (-1, 3))),
    )
    assert (report.rows_independent, report.producer) == (True, f"tensorflow {tf.__version__}")
    if ON_LINUX:
        assert {"landlock", "seccomp", "no-new-privileges", "limit:memory", "limit:file-size"} <= set(report.sandbox)
        assert ("uid:65534" in report.sandbox) == (os.geteuid() == 0)


def test_a_keras_file_is_opened(folder: Path) -> None:
    saved_models.dense(folder / "model.keras")
    assert validated(folder).ok


def test_files_that_policy_lets_in_are_those_of_the_version_alone(folder: Path, tmp_path: Path) -> None:
    saved_models.with_vocabulary_file(folder / "model", tmp_path / "words.txt")
    assert validated(folder, "tensorflow-files").ok
    saved_models.calling(folder / "model", lambda x: {"y": x, "text": tf.io.read_file("/etc/passwd")})
    report = validated(folder, "tensorflow-files")
    assert report.failure is not None
    assert report.failure.reason is FailureReason.FORBIDDEN_OPERATOR
    assert "the sandbox denies" in report.failure.message


def test_a_hostile_model_gets_nothing_but_computing(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    saved_models.with_python(folder / "model.keras", SNOOP.format(victim=str(victim), parent=os.getpid()))
    report = validated(folder, "keras-lambda")
    assert report.failure is not None
    said = report.diagnostics.partition("outcomes ")[2].partition("\n")[0]
    done = [attempt for attempt, outcome in json.loads(said).items() if outcome == "done"]
    # It may read what it was given and start threads, as TensorFlow does.
    assert done == ["own", "thread"]
    assert victim.read_text() == "keep me"


@pytest.mark.parametrize(
    ("code", "timeout_s", "reason"),
    [
        ("while True: pass", 15, FailureReason.VALIDATOR_TIMEOUT),
        ("held = []\nwhile True: held.append(bytearray(1 << 26))", 180, FailureReason.VALIDATOR_OUT_OF_MEMORY),
    ],
)
def test_a_model_that_hangs_or_allocates_ends_its_child_alone(
    folder: Path, code: str, timeout_s: float, reason: FailureReason
) -> None:
    saved_models.with_python(folder / "model.keras", code)
    report = validated(folder, "keras-lambda", timeout_s=timeout_s)
    assert report.failure is not None
    assert report.failure.reason is reason, report


def test_tensorflow_js_is_refused_whatever_it_is_called(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": "graph-model"}')
    (folder / "group1-shard1of1.bin").write_bytes(b"weights")
    report = validated(folder)
    assert report.failure is not None
    assert report.failure.reason is FailureReason.TFJS_UNSUPPORTED


SNOOP = """
import json, os, signal, socket, threading
def fork():
    if os.fork() == 0:
        os._exit(0)
attempts = dict(
    own=lambda: os.close(os.open("model.keras", os.O_RDONLY)),
    passwd=lambda: os.open("/etc/passwd", os.O_RDONLY),
    victim=lambda: os.open({victim!r}, os.O_RDONLY),
    environ=lambda: os.open("/proc/{parent}/environ", os.O_RDONLY),
    write=lambda: os.open("written", os.O_WRONLY | os.O_CREAT),
    over=lambda: os.open("model.keras", os.O_RDWR),
    unlink=lambda: os.unlink({victim!r}),
    inet=lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    unix=lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    fork=fork,
    exec=lambda: os.execv("/bin/true", ["true"]),
    kill=lambda: os.kill({parent}, 0),
    root=lambda: os.setuid(0),
    thread=lambda: threading.Thread(target=int).start(),
)
outcomes = dict()
for attempt, act in attempts.items():
    try:
        act()
        outcomes[attempt] = "done"
    except (OSError, RuntimeError) as error:
        outcomes[attempt] = type(error).__name__
os.write(2, ("outcomes " + json.dumps(outcomes) + "\\n").encode())
raise ValueError("hostile")
"""
