"""The connection that the parts of the registry's client share."""

from __future__ import annotations

from penstock.channels import Connection
from penstock.stubs import RegistryStub


class RegistryConnected:
    """Holds the connection."""

    def __init__(self, connection: Connection[RegistryStub]) -> None:
        self._connection = connection
