"""Asking a service whether it serves, through grpc.health.v1."""

from __future__ import annotations

PROBE_TIMEOUT_S = 1.0


def is_serving(address: str) -> bool:
    """Say whether the server at host:port answers SERVING for itself as a whole."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # A channel of its own each time: one that failed to connect would wait before it tries again.
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
