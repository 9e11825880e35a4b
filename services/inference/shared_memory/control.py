"""Shared memory as clients ask for it: registered on every worker, or served nowhere."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Final

from services.common.errors import DomainError, FailedPrecondition, Unavailable, Unimplemented
from services.inference.shared_memory.regions import Region, Regions
from services.inference.workers.commands import Arguments, Broadcast, Commands, Decision, Result, results

REGISTER: Final = "shared_memory.register"
UNREGISTER: Final = "shared_memory.unregister"
TIMEOUT_S: Final = 10.0


def add_commands(commands: Commands, regions: Regions) -> None:
    """Let this process be told of regions."""

    def register(arguments: Arguments) -> Result:
        regions.register(Region(**arguments))
        return {}

    def unregister(arguments: Arguments) -> Result:
        regions.unregister(arguments["name"])
        return {}

    def forgets(arguments: Arguments) -> Decision:
        return Decision(("shared_memory", *filter(None, [arguments["name"]])), keeps=False)

    commands.add(REGISTER, register, remember=lambda arguments: Decision(("shared_memory", arguments["name"])))
    commands.add(UNREGISTER, unregister, remember=forgets)


class SharedMemory:
    """The shared memory of the whole service. `regions` are this worker's; None: it serves none."""

    def __init__(self, regions: Regions | None, broadcast: Broadcast) -> None:
        self._regions = regions
        self._broadcast = broadcast

    @property
    def enabled(self) -> bool:
        """Whether it is served at all."""
        return self._regions is not None

    @property
    def regions(self) -> Regions:
        """This worker's regions; raises Unimplemented(SHARED_MEMORY_NOT_SERVED) where there are none."""
        if self._regions is None:
            raise Unimplemented(
                "shared memory is not served here; send and take the bytes in the messages, or set "
                "PENSTOCK_SHARED_MEMORY=true",
                reason="SHARED_MEMORY_NOT_SERVED",
            )
        return self._regions

    def check_served(self) -> None:
        """Pass, or raise as `regions` does."""
        _ = self.regions

    def register(self, region: Region) -> None:
        """Register a region on every worker, or on none; raises as `Regions.register` does, and WORKER_SILENT."""
        self.check_served()
        try:
            replies = self._broadcast.send(REGISTER, asdict(region), TIMEOUT_S)
        except Unavailable:  # some have it, and who says nothing may have it yet
            with suppress(DomainError):
                self.unregister(region.name)
            raise
        if any(reply.error for reply in replies) and not all(reply.error for reply in replies):
            self.unregister(region.name)
        results(replies)

    def unregister(self, name: str) -> None:
        """Forget a region on every worker, or all of them where the name is empty."""
        self.check_served()
        results(self._broadcast.send(UNREGISTER, {"name": name}, TIMEOUT_S))

    def list_regions(self, name: str) -> list[Region]:
        """List a region, or all; raises as `Regions.list_regions` does."""
        return self.regions.list_regions(name)


def open_regions(*, enabled: bool, loopback: bool, max_place_bytes: int) -> Regions | None:
    """Make the registry of regions, where they are served; a tensor there may take no more than one in a message.

    Raises FailedPrecondition(SHARED_MEMORY_NOT_LOCAL): other machines reach this server, and share no memory with it.
    """
    if not enabled:
        return None
    if not loopback:
        raise FailedPrecondition(
            "shared memory is served to this machine only: listen on 127.0.0.1 (PENSTOCK_HOST), or unset "
            "PENSTOCK_SHARED_MEMORY",
            reason="SHARED_MEMORY_NOT_LOCAL",
        )
    return Regions(max_place_bytes=max_place_bytes)
