"""How a child ended that reads one file of a stranger: every word that it leaves may be the stranger's."""

from __future__ import annotations

import json
import signal
from collections.abc import Collection

import structlog

from services.common.children.child import Ended, signal_name
from services.common.children.complaints import NO_SECCOMP, OUT_OF_MEMORY, REFUSED

_log = structlog.get_logger(__name__)
_DIAGNOSTICS_BYTES = 4_096


class Refused(Exception):
    """The reader refuses the file: a reason, a sentence, and what of the file it is about ("": all of it)."""

    def __init__(self, reason: str, sentence: str, place: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
        self.place = place


class OutOfMemory(Exception):
    """The reader needs more memory than it may take."""


class Broken(Exception):
    """The reader ended otherwise than a reader should; says how."""


def check_read(ended: Ended, what: str, *, reasons: Collection[str], max_sentence_chars: int) -> None:
    """Go on where a reader has read its file to the end.

    Args:
        ended: how it ended.
        what: it reads, for the log.
        reasons: it may refuse a file for; another is none.
        max_sentence_chars: of a refusal's sentence; a longer one is none.

    Raises:
        TimeoutError: it took more processor time than it may.
        OutOfMemory, Refused, Broken: see there.
    """
    if ended.returncode == -signal.SIGXCPU:
        raise TimeoutError
    if ended.returncode in (OUT_OF_MEMORY, -signal.SIGKILL):
        raise OutOfMemory
    if ended.returncode == REFUSED:
        raise _refused(bytes(ended.complained), reasons, max_sentence_chars)
    if ended.returncode < 0:
        raise Broken(f"it ended its reader ({signal_name(-ended.returncode)})")
    if ended.returncode:
        said = ended.complained[-_DIAGNOSTICS_BYTES:].decode(errors="replace")
        _log.warning("file not read", what=what, exit_code=ended.returncode, diagnostics=said)
        raise Broken(f"its reader gave up (exit code {ended.returncode})")
    if NO_SECCOMP.encode() in ended.complained:
        _log.warning("file read without a sandbox", what=what, reason=NO_SECCOMP)


def _refused(complained: bytes, reasons: Collection[str], max_sentence_chars: int) -> Refused | Broken:
    match _last_line(complained):
        case [str(reason), str(sentence), str(place)] if reason in reasons and len(sentence) <= max_sentence_chars:
            return Refused(reason, sentence, place)
    return Broken("its reader gave no reason")


def _last_line(complained: bytes) -> object:
    try:
        return json.loads(complained.rstrip().rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return None
