"""`penstock up` under mutual TLS: the services, the probes and the commands speak it, and nobody gets in without."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock.cli.embedded.health import is_serving
from tests.certificates import Authority
from tests.embedded import eventually
from tests.suite import FLOWER, RunningSuite
from tests.testdata import models


@pytest.mark.slow
def test_the_embedded_suite_speaks_mutual_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Authority.make(tmp_path, "ours")
    server, mine = ours.issue("server"), ours.issue("mine")
    (tmp_path / "tiny.onnx").write_bytes(models.classifier())
    for name, value in {
        "TLS_CERT_FILE": server.cert_file,
        "TLS_KEY_FILE": server.key_file,
        "TLS_CLIENT_CA_FILE": ours.ca_file,
        "CA_FILE": ours.ca_file,
    }.items():
        monkeypatch.setenv(f"PENSTOCK_{name}", str(value))
    suite = RunningSuite(tmp_path / "data")
    suite.up()
    try:
        addresses = suite.state.addresses
        assert all(address.startswith("grpcs://localhost:") for address in addresses.values())
        assert suite.json("status")["healthy"] is True
        assert not any(is_serving(address) for address in addresses.values())  # without a certificate
        person = {"PENSTOCK_CERT_FILE": str(mine.cert_file), "PENSTOCK_KEY_FILE": str(mine.key_file)}
        suite.json("model", "register", "tiny", tmp_path / "tiny.onnx", "--version", "1", **person)
        with suite.client(ca_file=ours.ca_file, cert_file=mine.cert_file, key_file=mine.key_file) as client:
            eventually(lambda: predicts(client))
        refused = suite.run("model", "list")
        assert refused.returncode != 0
        assert "certificate" in refused.stderr
    finally:
        suite.close()


def predicts(client: penstock.Client) -> bool:
    try:
        client.inference.predict("tiny", FLOWER)
    except (penstock.NotFound, penstock.Unavailable):
        return False
    return True


@pytest.mark.slow
def test_tls_without_who_vouches_for_it_is_refused_at_once(tmp_path: Path) -> None:
    suite = RunningSuite(tmp_path / "data")
    pair = Authority.make(tmp_path, "ours").issue("server")
    refused = suite.run("up", PENSTOCK_TLS_CERT_FILE=str(pair.cert_file), PENSTOCK_TLS_KEY_FILE=str(pair.key_file))
    assert refused.returncode != 0
    assert "PENSTOCK_CA_FILE" in refused.stderr
