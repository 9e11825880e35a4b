"""One of several workers: `python -m services.inference.workers.worker`, started by the supervisor alone."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from services.common.errors import DomainError
from services.common.process import run
from services.common.server import Server
from services.inference.settings import InferenceSettings
from services.inference.workers.place import Place


def main() -> int:
    """Take the place that the environment says, and serve."""
    place = Place.from_environment()
    place.take()  # before anything starts a thread

    from services.inference.__main__ import build as build_service
    from services.inference.workers.membership import Worker

    def build(settings: InferenceSettings, stack: ExitStack) -> Server:
        member = Worker(place, settings)
        try:
            return build_service(place.settings(settings), stack, member)
        except DomainError as error:
            member.fail(error)
            raise

    return run("inference", sys.argv[1:], InferenceSettings, build)


if __name__ == "__main__":
    sys.exit(main())
