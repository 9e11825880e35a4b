"""The exit codes that scripts can rely on, and errors as the one sentence that people read."""

from __future__ import annotations

import enum
import re
import sys

from penstock.cli.embedded.errors import AlreadyRunningError, EmbeddedError, StopRequestedError
from penstock.cli.keys_file import InvalidKeyName, KeyExists, KeyNotFound, KeysFileError
from penstock.cli.wording import at_the_command_line


class ExitCode(enum.IntEnum):
    """What the command's end says to a script."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    ALREADY_EXISTS = 4
    NOT_PERMITTED = 5
    UNAVAILABLE = 6
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the operation failed, or was refused",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.NOT_FOUND: "what it names does not exist",
    ExitCode.ALREADY_EXISTS: "what it would create exists already",
    ExitCode.NOT_PERMITTED: "no key, an unknown one, or one whose role is too weak",
    ExitCode.UNAVAILABLE: "no answer in time, or the suite is not healthy",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C (an `up` that is up drains, and ends with 0)",
}


class CommandError(Exception):
    """A failure that the command itself finds: a sentence, a stable reason, and the exit code."""

    def __init__(self, message: str, *, reason: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.exit_code = exit_code

    def sentence(self) -> str:
        """Write the error for stderr: the sentence, its reason in brackets, and below it what it quotes, if any."""
        first, _, quoted = self.message.partition("\n")
        return f"penstock: {first.rstrip('.')} [{self.reason}]" + (f"\n{quoted}" if quoted else "")


# Found by the SDK before anything is sent; and a missing approval, which is a missing option.
_USAGE_REASONS = {
    "INVALID_ADDRESS",
    "INCOMPLETE_TLS",
    "UNSUPPORTED_FRAMEWORK",
    "TOKEN_OVER_INSECURE_CHANNEL",
    "APPROVAL_REQUIRED",
}
_BY_CODE = {
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "ALREADY_EXISTS": ExitCode.ALREADY_EXISTS,
    "UNAUTHENTICATED": ExitCode.NOT_PERMITTED,
    "PERMISSION_DENIED": ExitCode.NOT_PERMITTED,
    "UNAVAILABLE": ExitCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": ExitCode.UNAVAILABLE,
}


# What helps at the command line, where a service can only speak of its own protocol.
_HINTS = {
    "MISSING_KEY": "give --token, or set PENSTOCK_TOKEN",
    "UNKNOWN_KEY": "give another --token, or set PENSTOCK_TOKEN",
    "APPROVAL_REQUIRED": "give --note, and --approver",
    "WRONG_MODE": "--chat sends the prompt as a message",
    "EVALUATION_REQUIRED": "`penstock model evaluate MODEL VERSION --metric NAME=X` records one",
    "RETRAINING_OFF": "`penstock monitoring set retraining.enabled=true` turns it on",
    "RETRAINING_TOO_SOON": "--force asks all the same",
    "TOO_FEW_LABELS": "--force asks all the same",
    "UNAVAILABLE": "`penstock up` starts the suite",
}

_OPTION = re.compile(r"--[a-z-]+")


def failure_of(error: Exception) -> CommandError:
    """Say what an error means at the command line."""
    # The SDK raised it only if the SDK is loaded: commands that call no service need not wait for grpc.
    sdk = sys.modules.get("penstock.errors")
    if sdk is not None and isinstance(error, sdk.PenstockError):
        usage = error.reason in _USAGE_REASONS
        exit_code = ExitCode.USAGE if usage else _BY_CODE.get(error.code.name, ExitCode.FAILED)
        said = at_the_command_line(error.message.rstrip("."), error.reason)
        hints = [_HINTS[error.reason]] if error.reason in _HINTS else []
        hints = [hint for hint in hints if not _says_already(said, hint)]
        message = "; ".join((said, *hints, *getattr(error, "__notes__", ())))
        return CommandError(message, reason=error.reason, exit_code=exit_code)
    match error:
        case CommandError():
            return error
        case KeyNotFound():
            return CommandError(str(error), reason=error.reason, exit_code=ExitCode.NOT_FOUND)
        case KeyExists():
            return CommandError(str(error), reason=error.reason, exit_code=ExitCode.ALREADY_EXISTS)
        case InvalidKeyName():
            return CommandError(str(error), reason=error.reason, exit_code=ExitCode.USAGE)
        case KeysFileError():
            return CommandError(str(error), reason=error.reason)
        case AlreadyRunningError():
            return CommandError(str(error), reason="ALREADY_RUNNING", exit_code=ExitCode.ALREADY_EXISTS)
        case StopRequestedError():
            return CommandError(str(error), reason="STOPPED", exit_code=ExitCode.INTERRUPTED)
        case EmbeddedError():
            return CommandError(str(error), reason="SUITE_FAILED")
        case OSError():
            return _failure_of_system(error)
    return CommandError(
        f"{type(error).__name__}: {error} (a defect of this command; PENSTOCK_DEBUG=1 shows where)", reason="INTERNAL"
    )


def _says_already(sentence: str, hint: str) -> bool:
    """Whether a sentence names every option that a hint would name."""
    options = _OPTION.findall(hint)
    return bool(options) and all(option in sentence for option in options)


def _failure_of_system(error: OSError) -> CommandError:
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, FileNotFoundError):
        return CommandError(what, reason="FILE_NOT_FOUND", exit_code=ExitCode.NOT_FOUND)
    if isinstance(error, PermissionError):
        return CommandError(what, reason="FILE_NOT_PERMITTED", exit_code=ExitCode.NOT_PERMITTED)
    return CommandError(what, reason="SYSTEM_ERROR")


def epilogue() -> str:
    """Write the table of exit codes for `penstock --help`."""
    return "\n".join(("Exit codes", *(f"{code.value:>5}  {meaning}" for code, meaning in MEANINGS.items())))
