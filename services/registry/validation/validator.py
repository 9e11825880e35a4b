"""Validates an untrusted version in a child process that may do nothing but compute.

This side imports no runtime and parses no model: it starts the child, waits no longer than it said, kills
whatever is left, and believes nothing that does not have the shape of a `ValidationReport`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from .report import Failure, FailureReason, ValidationReport

_ROOT = Path(__file__).resolve().parents[3]
# -I ignores the folder and the environment that we were started in, so the way to our own modules is given.
_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
# What opens each framework's files; a validator takes those whose modules are installed.
RUNTIMES = {
    "onnx": ("onnx", "onnxruntime"),
    "tensorflow": ("tensorflow",),
    "transformers": ("onnx", "onnxruntime", "tokenizers"),
}
_DIAGNOSTICS_BYTES = 4096
_READ_BYTES = 65536
_REPORT = TypeAdapter(ValidationReport)


def installed_frameworks() -> frozenset[str]:
    """Name the frameworks whose runtimes are installed here; none is imported to find out."""
    return frozenset(name for name, modules in RUNTIMES.items() if all(map(importlib.util.find_spec, modules)))


@dataclass(frozen=True, slots=True)
class ValidationLimits:
    """What one validation may use.

    The child may take `memory_limit_bytes` and `memory_per_file_byte` for each byte of the files: the runtime
    has the files mapped and keeps their bytes, their parsed form and their optimised form side by side.
    `answer_limit_bytes` bounds the report and, separately, what the child may say on stderr before it is killed.
    """

    timeout_s: float = 60.0
    memory_limit_bytes: int = 2 * 2**30
    memory_per_file_byte: int = 7
    answer_limit_bytes: int = 2**20


class Validator:
    """Opens versions in child processes; keeps no state, so that any number of threads may share one.

    `allowed` is the policy: names of what is refused otherwise (see `settings`). With `require_sandbox` a version is
    opened only where the whole sandbox stands. `child` is the module that the child runs: it finds the files in its
    working folder and its settings in the first argument.
    """

    def __init__(
        self,
        limits: ValidationLimits | None = None,
        *,
        allowed: frozenset[str] = frozenset(),
        require_sandbox: bool = False,
        child: str = "services.registry.validation.child",
    ) -> None:
        self._limits = limits or ValidationLimits()
        self._allowed = allowed
        self._require_sandbox = require_sandbox
        self._child = child

    def validate(self, folder: Path, framework: str, *, signature_name: str = "") -> ValidationReport:
        """Open the files in `folder` as a model of `framework` and report; blocks for `timeout_s` at most.

        `framework` is `onnx`, `tensorflow` or `transformers`. The folder holds the version's files and nothing else;
        it is read, and must be readable by anybody who has come to it. `signature_name` is the signature by which a
        SavedModel is to be served; '' takes `serving_default`, or its only one.

        A model that fails is a report with a `failure`. Raises OSError only where the folder cannot be read or
        no process can be started: trouble of the server, not of the model.
        """
        if framework not in RUNTIMES:
            return _failed(
                FailureReason.UNSUPPORTED_FRAMEWORK,
                f"framework {framework!r} cannot be validated here; allowed are {', '.join(sorted(RUNTIMES))}",
            )
        started = time.monotonic()
        size_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        report = self._ask_child(folder, framework, signature_name, size_bytes, started + self._limits.timeout_s)
        return dataclasses.replace(report, duration_ms=round((time.monotonic() - started) * 1000))

    def _ask_child(
        self, folder: Path, framework: str, signature_name: str, size_bytes: int, deadline: float
    ) -> ValidationReport:
        limits = self._limits
        settings = {
            "framework": framework,
            "signature_name": signature_name,
            "memory_limit_bytes": limits.memory_limit_bytes + limits.memory_per_file_byte * size_bytes,
            "cpu_limit_s": int(limits.timeout_s) + 1,
            "allowed": sorted(self._allowed),
            "require_sandbox": self._require_sandbox,
            "parent_pid": os.getpid(),
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(_ROOT), self._child, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        with process:
            try:
                heard = _listen(process, deadline, limits.answer_limit_bytes)
            except TimeoutError:
                return _failed(
                    FailureReason.VALIDATOR_TIMEOUT,
                    f"the model did not load and run within {limits.timeout_s:g} s; it is too slow or never ends",
                )
            except _TooMuch:
                return _failed(
                    FailureReason.VALIDATOR_CRASHED,
                    f"the validator wrote more than {limits.answer_limit_bytes:,} bytes while it had the model open",
                )
            finally:
                # The whole group, before its leader is reaped, so that the number is still its own. A leader that
                # has closed its pipes by ending keeps the exit code that it ended with.
                with contextlib.suppress(PermissionError):  # macOS has this for a group that has ended
                    os.killpg(process.pid, signal.SIGKILL)
        return _judge(process.returncode, *heard)


class _TooMuch(Exception):
    """The child says more than it may."""


def _listen(process: subprocess.Popen[bytes], deadline: float, limit_bytes: int) -> tuple[bytes, bytes]:
    """Read both pipes to their ends; raises TimeoutError at the deadline, _TooMuch above the limit."""
    heard: dict[IO[bytes], bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for pipe in filter(None, (process.stdout, process.stderr)):
            heard[pipe] = bytearray()
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(remaining_s):
                pipe = key.data
                chunk = os.read(pipe.fileno(), _READ_BYTES)
                heard[pipe] += chunk
                if len(heard[pipe]) > limit_bytes:
                    raise _TooMuch
                if not chunk:
                    selector.unregister(pipe)
    said, complained = heard.values()
    return bytes(said), bytes(complained)


def _judge(returncode: int, said: bytes, complained: bytes) -> ValidationReport:
    diagnostics = complained[-_DIAGNOSTICS_BYTES:].decode(errors="replace")
    if returncode == 0:
        report = _believe(said)
    elif returncode == -signal.SIGXCPU:
        report = _failed(FailureReason.VALIDATOR_TIMEOUT, "the model used up the processor time that validation allows")
    elif returncode == -signal.SIGKILL or b"bad_alloc" in complained:
        report = _failed(
            FailureReason.VALIDATOR_OUT_OF_MEMORY,
            "the validator was ended for want of memory while it had the model open",
        )
    elif returncode < 0:
        report = _failed(
            FailureReason.VALIDATOR_CRASHED,
            f"the model crashed the runtime ({_signal_name(-returncode)}), as it would where it is served; "
            "export it again with another version of its exporter",
        )
    else:
        report = _failed(
            FailureReason.VALIDATOR_CRASHED, f"the validator gave up (exit code {returncode}) on this model"
        )
    return dataclasses.replace(report, diagnostics=diagnostics)


def _believe(said: bytes) -> ValidationReport:
    """Take the child's answer if it has the shape of a report: a hijacked child may say what it likes."""
    with contextlib.suppress(ValidationError):
        report = _REPORT.validate_json(said, strict=True)
        # A model that passes has a signature; a NUL is in no report of ours, and no database takes one.
        if (report.failure or report.signature) and b"\\u0000" not in said:
            return report
    return _failed(FailureReason.VALIDATOR_CRASHED, "the validator ended without a report on the model")


def _signal_name(number: int) -> str:
    named = {known.value: known.name for known in signal.Signals}
    return named.get(number, f"signal {number}")


def _failed(reason: FailureReason, message: str) -> ValidationReport:
    return ValidationReport(failure=Failure(reason, message))
