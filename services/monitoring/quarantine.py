"""Events that were refused, to look at: what they said, and why they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf import text_format

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.common import pages
from services.monitoring.store.quarantine import Kept, QuarantineStore

DEFAULT_PAGE_SIZE = 100
READ_AT_ONCE = 100
"""An event in quarantine is of 64 KiB at most."""
READ_A_PAGE = 10_000
MAX_NAME_CHARS, MAX_EXCERPT_CHARS = 128, 1_000
_MAX_EXCERPT_BYTES = 2_000
_LAST_NUMBER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused event; what its sender wrote is as it came, and cut."""

    received_time: datetime
    sent_by: str
    reason: str
    message: str
    inference_id: str
    model: str
    version: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class RefusedPage:
    """Refused events, the newest first, and the token of the next page; empty where there are no more."""

    events: Sequence[Refused]
    next_page_token: str


class Quarantine:
    """Shows what was refused."""

    def __init__(self, store: QuarantineStore) -> None:
        self._store = store

    def page(self, model: str, *, size: int, token: str) -> RefusedPage:
        """List refused events, of one model or of all. A page looks at READ_A_PAGE of them at most.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"model": model}
        before = _position(pages.decode(token, bound_to))
        found: list[Refused] = []
        for _ in range(READ_A_PAGE // READ_AT_ONCE):
            read = self._store.read(before=before, limit=READ_AT_ONCE)
            for kept in read:
                event = pb.InferenceEvent.FromString(kept.event or b"")
                if not model or event.model == model:
                    found.append(_refused(kept, event))
                before = kept.event_number
                if len(found) == size:
                    return RefusedPage(found, pages.encode([before], bound_to))
            if len(read) < READ_AT_ONCE:
                return RefusedPage(found, "")
        return RefusedPage(found, pages.encode([before], bound_to))


def _refused(kept: Kept, event: pb.InferenceEvent) -> Refused:
    inference_id, model, version = (text[:MAX_NAME_CHARS] for text in (event.inference_id, event.model, event.version))
    return Refused(
        kept.received_time, kept.sent_by, kept.reason, kept.message, inference_id, model, version, _excerpt(event)
    )


def _excerpt(event: pb.InferenceEvent) -> str:
    if event.ByteSize() > _MAX_EXCERPT_BYTES:
        event.ClearField("features")
        event.ClearField("prediction")
    return text_format.MessageToString(event, as_one_line=True, as_utf8=True)[:MAX_EXCERPT_CHARS]


def _position(position: list[Any] | None) -> int:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return _LAST_NUMBER
        case [int(before)] if 0 <= before <= _LAST_NUMBER:
            return before
        case _:
            raise pages.unknown_token()
