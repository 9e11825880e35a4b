"""The process that opens one untrusted version: `… child SETTINGS > report` in the folder of its files.

What opens the files is imported before the sandbox closes, and nothing of theirs is parsed before it has. The answer
is one `ValidationReport`; a crash is no answer, and the parent says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import locale
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Read by OpenBLAS when NumPy is imported, and by tokenizers: one thread.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

from services.common.children.landlock import library_folders, restrict_files
from services.common.children.sandbox import SandboxLimits, enter

from .files import list_files, map_files
from .layout import is_tensorflow_js, tensorflow_model
from .report import Failure, FailureReason, Refusal, ValidationReport, out_of_memory

_CODE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent asks for. `allowed` is its policy's, `require_sandbox` refuses without the whole sandbox."""

    framework: str
    signature_name: str
    memory_limit_bytes: int
    cpu_limit_s: int
    parent_pid: int
    allowed: list[str]
    require_sandbox: bool


class _Process:
    """What the system says of this process; opened while files can be."""

    def __init__(self) -> None:
        # Not getrusage: its maximum starts from the size of the process that started us.
        try:
            self._status = os.open("/proc/self/status", os.O_RDONLY)
        except FileNotFoundError:
            self._status = -1

    def read(self, field: bytes) -> int:
        """Give a size in bytes; 0 where the system has no /proc."""
        if self._status < 0:
            return 0
        found = re.search(field + rb":\s+(\d+) kB", os.pread(self._status, 8192, 0))
        return int(found[1]) * 1024 if found else 0


def _examine(settings: Settings, process: _Process) -> ValidationReport:
    """Close the sandbox that the framework can live with, and judge what is in this folder."""
    folder = Path()
    paths = list_files(folder)
    if settings.framework == "tensorflow" and not is_tensorflow_js(paths):
        return _examine_reading(settings, process, paths)
    module = "tensorflow_js" if is_tensorflow_js(paths) else _COMPUTING[settings.framework]
    inspect = importlib.import_module(f".{module}", __package__).inspect
    files = map_files(folder, paths)
    sandbox = enter(SandboxLimits(settings.memory_limit_bytes, settings.cpu_limit_s), settings.parent_pid)
    return _judge(settings, sandbox, {"seccomp"}, lambda allowed: inspect(files, allowed))


_COMPUTING = {"onnx": "onnx_model", "transformers": "transformers_bundle"}


# Read when TensorFlow and Keras are imported: little to say, few threads, nothing to look for at home or elsewhere.
_TENSORFLOW_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HOME": "/nonexistent",
    "KERAS_HOME": "/dev/null",  # no folder, whatever somebody else may have made
    "KERAS_BACKEND": "tensorflow",
}


def _examine_reading(settings: Settings, process: _Process, paths: list[str]) -> ValidationReport:
    """Let a runtime that opens files by path and starts threads do so, but nothing else."""
    model = tensorflow_model(paths)
    # Before the import, since threads that run already would keep their rights.
    files = tuple(restrict_files([Path(), *library_folders(_CODE)]))
    os.environ.update(_TENSORFLOW_ENVIRONMENT)
    warnings.simplefilter("ignore")
    tempfile.tempdir = "/nonexistent"  # TensorFlow asks for one while it is imported, and there is none to be found
    inspect = importlib.import_module(".tensorflow_model", __package__).inspect
    # A large runtime reserves what it never touches while it is imported.
    memory_limit_bytes = settings.memory_limit_bytes + process.read(b"VmSize")
    sandbox = (
        *files,
        *enter(SandboxLimits(memory_limit_bytes, settings.cpu_limit_s), settings.parent_pid, reading=True),
    )
    return _judge(
        settings,
        sandbox,
        {"seccomp", "landlock"},
        lambda allowed: inspect(*model, allowed, signature_name=settings.signature_name),
    )


def _judge(
    settings: Settings,
    sandbox: tuple[str, ...],
    wanted: set[str],
    inspect: Callable[[frozenset[str]], ValidationReport],
) -> ValidationReport:
    missing = sorted(wanted - set(sandbox))
    if settings.require_sandbox and missing:
        message = (
            f"this server demands a sandbox that its kernel does not give ({', '.join(missing)} is missing), so the "
            "version was not opened; validate it on another kernel, or unset PENSTOCK_VALIDATION_REQUIRE_SANDBOX"
        )
        report = ValidationReport(failure=Failure(FailureReason.SANDBOX_UNAVAILABLE, message))
    else:
        report = _guarded(lambda: inspect(frozenset(settings.allowed)))
    return dataclasses.replace(report, sandbox=sandbox)


def _guarded(judge: Callable[[], ValidationReport]) -> ValidationReport:
    try:
        return judge()
    except Refusal as refusal:
        return ValidationReport(failure=Failure(refusal.reason, refusal.message))
    except MemoryError:
        return ValidationReport(failure=Failure(FailureReason.VALIDATOR_OUT_OF_MEMORY, out_of_memory().message))


def main() -> None:
    """Read the settings, close the sandbox, inspect, answer, and leave without clean-up."""
    settings = Settings(**json.loads(sys.argv[1]))
    # The runtime's text operators load this locale from a file, later than files can be opened.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "en_US.UTF-8")
    # The answer has the pipe to itself: what a library prints goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    process = _Process()
    report = _guarded(lambda: _examine(settings, process))
    report = dataclasses.replace(report, peak_memory_bytes=process.read(b"VmHWM"))
    remaining = memoryview(json.dumps(dataclasses.asdict(report)).encode())
    while remaining:
        remaining = remaining[os.write(answer, remaining) :]
    # The runtime's destructors have met a hostile file: the kernel cleans up after us.
    os._exit(0)


if __name__ == "__main__":
    main()
