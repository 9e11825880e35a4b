"""One of several workers: `python -m services.inference.workers.worker`, started by the supervisor alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from services.common.errors import DomainError
from services.common.process import run
from services.inference.settings import InferenceSettings
from services.inference.workers.place import Place

if TYPE_CHECKING:
    from services.common.server import Server
    from services.inference.workers.membership import Worker


@contextmanager
def telling(member: Worker) -> Iterator[None]:
    """Let the supervisor know why this worker cannot begin."""
    try:
        yield
    except DomainError as error:
        member.fail(error)
        raise


class _Told:
    """The server, and a supervisor that hears why it does not open."""

    def __init__(self, server: Server, member: Worker) -> None:
        self._server = server
        self._member = member
        self.wait, self.close = server.wait, server.close

    def open(self) -> int:
        """Open the server."""
        with telling(self._member):
            return self._server.open()


def main() -> int:
    """Take the place that the environment says, and serve."""
    place = Place.from_environment()
    place.take()  # before anything starts a thread

    from services.inference.__main__ import build as build_service
    from services.inference.workers.membership import Worker

    def build(settings: InferenceSettings, stack: ExitStack) -> _Told:
        member = Worker(place, settings)
        with telling(member):
            return _Told(build_service(place.settings(settings), stack, member), member)

    return run("inference", sys.argv[1:], InferenceSettings, build)


if __name__ == "__main__":
    sys.exit(main())
