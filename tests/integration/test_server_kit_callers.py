"""The server kit, over a real socket: who may call it, and over which wires."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.common import certificates, errors
from services.common.certificates import CertificateFiles
from tests.certificates import certificate
from tests.kit import Kit, details, failure, write_keys


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Kit]:
    write_keys(tmp_path / "keys.json", vic="viewer", olga="operator")
    with Kit(tmp_path, keys_file=tmp_path / "keys.json").running() as running:
        yield running


def test_a_call_without_a_key_is_refused(guarded: Kit) -> None:
    refused = failure(lambda: guarded.stub.GetMetrics(pb.GetMetricsRequest(), timeout=60))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details(refused)[1].reason == "MISSING_KEY"


def test_a_call_with_a_wrong_key_is_refused(guarded: Kit) -> None:
    metadata = (("authorization", "Bearer nobody"),)
    refused = failure(lambda: guarded.stub.GetMetrics(pb.GetMetricsRequest(), metadata=metadata, timeout=60))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details(refused)[1].reason == "UNKNOWN_KEY"


def test_a_call_with_a_too_weak_key_is_refused(guarded: Kit) -> None:
    metadata = (("authorization", "Bearer vic"),)
    answers = guarded.stub.RecordEvents(iter([pb.RecordEventsRequest()]), metadata=metadata, timeout=60)
    refused = failure(lambda: next(answers))
    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details(refused)[1].reason == "ROLE_TOO_WEAK"


def test_the_use_case_knows_who_calls_and_threads_do_not_mix_callers_up(guarded: Kit) -> None:
    def ask(name: str) -> str:
        metadata = (("authorization", f"Bearer {name}"),)
        answer = guarded.stub.GetInference(pb.GetInferenceRequest(), metadata=metadata, timeout=60)
        return answer.inference.event.inference_id

    names = ["vic", "olga"] * 50
    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(ask, names)) == names


def test_health_and_reflection_need_no_key(guarded: Kit) -> None:
    assert guarded.status() == health_pb2.HealthCheckResponse.SERVING


def test_tls_by_file_paths_and_mutual_tls(tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    cert, key = cert_file.read_bytes(), key_file.read_bytes()
    files = {"tls_cert_file": cert_file, "tls_key_file": key_file}
    stranger, known = grpc.ssl_channel_credentials(cert), grpc.ssl_channel_credentials(cert, key, cert)

    def answers(kit: Kit, credentials: grpc.ChannelCredentials) -> bool:
        with grpc.secure_channel(f"localhost:{kit.port}", credentials) as channel:
            try:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            except grpc.RpcError:
                return False
            return True

    with Kit(tmp_path, **files).running() as kit:
        assert answers(kit, stranger)
        assert failure(kit.status).code() is grpc.StatusCode.UNAVAILABLE  # in plain text
    with Kit(tmp_path, **files, tls_client_ca_file=cert_file).running() as kit:
        assert answers(kit, known)
        assert not answers(kit, stranger)


def test_tls_files_that_are_not_all_there_stop_the_start(tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path)
    (tmp_path / "words").write_text("no certificate")
    (tmp_path / "large").write_bytes(cert_file.read_bytes() + b"\n" * 1024 * 1024)
    for files, reason in (
        ({"tls_cert_file": cert_file}, "TLS_INCOMPLETE"),
        ({"tls_client_ca_file": cert_file}, "TLS_INCOMPLETE"),
        ({"tls_cert_file": cert_file, "tls_key_file": tmp_path / "gone"}, "TLS_UNREADABLE"),
        ({"tls_cert_file": tmp_path / "words", "tls_key_file": key_file}, "TLS_UNREADABLE"),
        ({"tls_cert_file": tmp_path / "large", "tls_key_file": key_file}, "TLS_UNREADABLE"),
    ):
        with pytest.raises(errors.FailedPrecondition) as refused:
            Kit(tmp_path, **files).server.open()
        assert refused.value.reason == reason


def test_a_pair_is_checked_as_it_was_read_and_not_as_it_is_on_the_disk_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert_file, key_file = certificate(tmp_path)
    _, former_key_file = certificate(tmp_path, "former")
    pair = CertificateFiles(cert_file, key_file, None)
    assert pair.read().key == key_file.read_bytes()

    def read_just_before(setting: str, path: Path) -> bytes:
        return (former_key_file if setting == "PENSTOCK_TLS_KEY_FILE" else path).read_bytes()

    monkeypatch.setattr(certificates, "_read_pem", read_just_before)
    with pytest.raises(errors.FailedPrecondition) as refused:
        pair.read()
    assert refused.value.reason == "TLS_MISMATCH"
