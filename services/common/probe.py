"""The health check of a container: `python -m services.common.probe` asks the service in this container.

It reads the variables that the service itself reads, so both agree on the port and on TLS, and exits with 0 where
the service answers SERVING, with 1 where it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field, ValidationError

from services.common.settings import Port, Settings

HEALTHY, UNHEALTHY = 0, 1


class ProbeSettings(Settings):
    """Where the service listens, as it reads it itself, and how long it may take to answer."""

    host: str = "127.0.0.1"
    """The address that the service listens on."""
    port: Port
    """Its gRPC port."""
    tls_cert_file: Path | None = None
    """The service's certificate; the probe trusts it, and what it was signed with, alone."""
    tls_key_file: Path | None = None
    """Its private key, which the probe shows where clients need a certificate."""
    tls_client_ca_file: Path | None = None
    """Where it is set, clients need a certificate."""
    probe_name: str = "localhost"
    """The name to look for in the service's certificate."""
    probe_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 3_000
    """How long the service may take to answer."""


def main() -> int:
    """Ask once; returns the exit code, and says on stderr why it is not 0."""
    try:
        settings = ProbeSettings()  # type: ignore[call-arg] # the environment gives the port
        with _channel(settings) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=settings.probe_timeout_ms / 1000
            )
    except ValidationError:
        return _unhealthy("PENSTOCK_PORT has to name the port of the service to ask")
    except OSError as error:
        return _unhealthy(f"{error.filename} cannot be read: {error.strerror}")
    except grpc.RpcError as error:
        return _unhealthy(f"{error.code().name}: {error.details()}")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return _unhealthy(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return HEALTHY


def _unhealthy(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return UNHEALTHY


def _channel(settings: ProbeSettings) -> grpc.Channel:
    # A service that listens everywhere listens on loopback too.
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - bound by no one here
    address = f"{host}:{settings.port}"
    if settings.tls_cert_file is None:
        return grpc.insecure_channel(address)
    certificate = settings.tls_cert_file.read_bytes()
    shown = settings.tls_client_ca_file is not None and settings.tls_key_file is not None
    credentials = grpc.ssl_channel_credentials(
        root_certificates=certificate,
        private_key=settings.tls_key_file.read_bytes() if shown and settings.tls_key_file else None,
        certificate_chain=certificate if shown else None,
    )
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", settings.probe_name)])


if __name__ == "__main__":
    sys.exit(main())
