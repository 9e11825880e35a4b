"""Why a connection failed, read from what an HTTP library raised: nothing of it is shown but the system's own words."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

_MOST = 10


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """What lay under an error. `timed_out`: the peer was silent; `tls`: TLS failed; `why`: in the system's words."""

    timed_out: bool
    tls: ssl.SSLError | None
    why: str

    @classmethod
    def of(cls, error: BaseException) -> ConnectionFault:
        """Look through an error and what it came from."""
        causes = list(_causes(error))
        timed_out = any(isinstance(cause, TimeoutError) for cause in causes)
        tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
        said = (str(cause.strerror) for cause in causes if isinstance(cause, OSError) and cause.strerror)
        return cls(timed_out, tls, next(said, type(causes[-1]).__name__))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MOST):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
