"""The connection that the parts of the inference client share."""

from __future__ import annotations

from penstock.channels import Connection
from penstock.stubs import InferenceStub


class InferenceConnected:
    """Holds the connection."""

    def __init__(self, connection: Connection[InferenceStub]) -> None:
        self._connection = connection
