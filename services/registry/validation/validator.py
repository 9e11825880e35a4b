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
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from services.common.children.child import TooMuch, run_child, signal_name

from .report import Failure, FailureReason, ValidationReport

# What opens each framework's files; a validator takes those whose modules are installed.
RUNTIMES = {
    "onnx": ("onnx", "onnxruntime"),
    "tensorflow": ("tensorflow",),
    "transformers": ("onnx", "onnxruntime", "tokenizers"),
}
_DIAGNOSTICS_BYTES = 4096
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
        try:
            ended = run_child(
                self._child, json.dumps(settings), folder, deadline=deadline, limit_bytes=limits.answer_limit_bytes
            )
        except TimeoutError:
            return _failed(
                FailureReason.VALIDATOR_TIMEOUT,
                f"the model did not load and run within {limits.timeout_s:g} s; it is too slow or never ends",
            )
        except TooMuch:
            return _failed(
                FailureReason.VALIDATOR_CRASHED,
                f"the validator wrote more than {limits.answer_limit_bytes:,} bytes while it had the model open",
            )
        return _judge(ended.returncode, bytes(ended.said), bytes(ended.complained))


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
            f"the model crashed the runtime ({signal_name(-returncode)}), as it would where it is served; "
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


def _failed(reason: FailureReason, message: str) -> ValidationReport:
    return ValidationReport(failure=Failure(reason, message))
