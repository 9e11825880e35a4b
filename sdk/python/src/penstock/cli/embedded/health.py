"""Asking a service whether it serves, through grpc.health.v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.credentials import Credentials

PROBE_TIMEOUT_S = 1.0


def credentials_of(environment: Mapping[str, str]) -> Credentials:
    """Find what a suite's own calls need for TLS: PENSTOCK_CA_FILE, and its certificate as a server for mutual TLS."""
    from penstock.credentials import Credentials

    ca_file = environment.get("PENSTOCK_CA_FILE")
    own_pair = bool(ca_file) and not environment.get("PENSTOCK_CERT_FILE")
    prefix = "PENSTOCK_TLS" if own_pair else "PENSTOCK"
    return Credentials(
        ca_file=ca_file or None,
        cert_file=environment.get(f"{prefix}_CERT_FILE") or None,
        key_file=environment.get(f"{prefix}_KEY_FILE") or None,
    )


def is_serving(address: str, credentials: Credentials | None = None) -> bool:
    """Say whether the server at host:port, or grpcs://host:port, answers SERVING for itself as a whole."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from penstock.credentials import Address, Credentials
    from penstock.errors import InvalidArgument

    try:
        # A channel of its own each time: one that failed to connect would wait before it tries again.
        with (credentials or Credentials()).open(Address.parse(address), []) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
    except (grpc.RpcError, OSError, InvalidArgument):  # TLS files that are being replaced serve at the next look
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
