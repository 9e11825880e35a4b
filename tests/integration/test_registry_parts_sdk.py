"""Large files from the SDK: in parts, resumed where they broke, by whoever sends them again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import part_uploads
from penstock import registry as sdk
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.embedded.ports import free_port
from penstock.errors import InvalidArgument, Unavailable
from penstock.retries import RetryPolicy
from penstock.uploads import FileSource
from services.registry.parts import part_uploads as server_side
from tests import registry
from tests.faults.proxy import Proxy
from tests.testdata import models

MIB = 1024 * 1024
CONTENT = hashlib.shake_128(b"large").digest(8 * MIB + 5)
PART_BYTES = MIB


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def address(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry that chooses parts of 1 MiB, and an SDK that takes anything over 2 MiB for large."""
    monkeypatch.setattr(server_side, "USUAL_PART_BYTES", PART_BYTES)
    monkeypatch.setattr(sdk, "HUGE_BYTES", 2 * MIB)
    monkeypatch.setattr(sdk, "LARGE_BYTES", 2 * MIB)
    with registry.served(registry.settings_for(database_url, tmp_path, validation_threads=0)) as served:
        yield served


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENT)
    return path


def client_of(address: str) -> penstock.Client:
    return penstock.Client(registry=address, token="", retry=RetryPolicy(attempts=8, base_delay_s=0.05))


class Bar:
    """Progress, remembered; `stop_at` bytes it raises."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.told: list[int] = []
        self._stop_at = stop_at

    def __call__(self, done: int, total: int | None) -> None:
        assert total == len(CONTENT)
        self.told.append(done)
        if self._stop_at is not None and done >= self._stop_at:
            raise InterruptedError("enough")


def test_a_large_file_goes_in_parts_and_comes_back(address: str, source: Path) -> None:
    bar = Bar()
    with client_of(address) as client:
        version = client.registry.register_version("m", "1", source, wait=False, progress=bar)
        assert version.files[0] == pb.File(
            path="model.onnx", sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT)
        )
        assert b"".join(client.registry.download_chunks("m", "1")) == CONTENT
        assert bar.told[-1] == len(CONTENT)
        again = Bar()
        client.registry.register_version("m", "2", source, wait=False, progress=again)
        assert again.told == [0, len(CONTENT)]  # the registry has these bytes


def test_small_files_and_pipes_beside_a_large_one_go_with_the_version(address: str, source: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        os.write(writing, b"from a pipe")
        os.close(writing)
        files: dict[str, FileSource] = {"a.onnx": source, "b.bin": models.linear(), "c.bin": pipe}
        with client_of(address) as client:
            version = client.registry.register_version("m", "1", files, framework="onnx", wait=False)
            assert [file.path for file in version.files] == ["a.onnx", "b.bin", "c.bin"]
            assert b"".join(client.registry.download_chunks("m", "1", "c.bin")) == b"from a pipe"


def test_who_stops_goes_on_where_it_stopped(address: str, source: Path) -> None:
    with client_of(address) as client, pytest.raises(InterruptedError, match="enough"):
        client.registry.register_version("m", "1", source, wait=False, progress=Bar(stop_at=5 * MIB))
    bar = Bar()
    with client_of(address) as client:
        client.registry.register_version("m", "1", source, wait=False, progress=bar)
    received = bar.told[1]
    assert received >= 2 * MIB  # of the parts that were under way at the end, not all arrived
    assert received % PART_BYTES == 0
    assert len(bar.told) <= 2 + (len(CONTENT) - received) // PART_BYTES + 1  # no part came twice


def test_a_connection_that_is_cut_costs_parts_and_not_the_file(address: str, source: Path) -> None:
    with Proxy(int(address.rpartition(":")[2])) as proxy, client_of(proxy.address) as client:
        cuts = [2 * MIB, 5 * MIB]

        def cut(done: int, _: int | None) -> None:
            if cuts and done >= cuts[0]:
                cuts.pop(0)
                proxy.cut()
                proxy.heal()

        version = client.registry.register_version("m", "1", source, wait=False, progress=cut)
        assert not cuts
        assert b"".join(client.registry.download_chunks("m", version.version)) == CONTENT


def test_a_stream_that_broke_is_sent_again_in_parts(
    address: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "HUGE_BYTES", 100 * MIB)
    sent: list[str] = []
    send = part_uploads.PartUpload.send

    def noted(self: part_uploads.PartUpload) -> str:
        sent.append("in parts")
        return send(self)

    monkeypatch.setattr(part_uploads.PartUpload, "send", noted)
    with Proxy(int(address.rpartition(":")[2])) as proxy, client_of(proxy.address) as client:

        def cut(done: int, _: int | None) -> None:
            if done >= 4 * MIB and not sent:
                proxy.cut()
                proxy.heal()

        version = client.registry.register_version("m", "1", source, wait=False, progress=cut)
        assert sent == ["in parts"]
        assert version.deployment_number == 1
        assert b"".join(client.registry.download_chunks("m", "1")) == CONTENT


def test_a_file_that_changes_while_it_is_sent_is_refused_and_its_parts_forgotten(
    address: str, source: Path, database_url: str
) -> None:
    def change(done: int, _: int | None) -> None:
        if done >= MIB:
            with source.open("r+b") as file:  # in place: cutting it short first would be another change
                file.write(CONTENT[::-1])

    with client_of(address) as client:
        with pytest.raises(InvalidArgument) as caught:
            client.registry.register_version("m", "1", source, wait=False, progress=change)
        assert caught.value.reason == "DIGEST_MISMATCH"
        source.write_bytes(CONTENT)
        assert client.registry.register_version("m", "1", source, wait=False).files[0].size_bytes == len(CONTENT)


UPLOAD = """
import json, sys, penstock
from penstock import registry as sdk
address, source = sys.argv[1:]
sdk.HUGE_BYTES = 2 << 20
def told(done, total):
    print(json.dumps(done), flush=True)
    if done >= 4 << 20:
        input()
with penstock.Client(registry=address, token="") as client:
    client.registry.register_version("m", "1", source, wait=False, progress=told)
"""


@pytest.mark.slow
def test_a_killed_client_goes_on_in_another_process(address: str, source: Path) -> None:
    command = [sys.executable, "-c", UPLOAD, address, str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if json.loads(line) >= 4 * MIB:
                break
        killed.send_signal(signal.SIGKILL)
    bar = Bar()
    with client_of(address) as client:
        client.registry.register_version("m", "1", source, wait=False, progress=bar)
        assert b"".join(client.registry.download_chunks("m", "1")) == CONTENT
    assert bar.told[1] >= MIB


@pytest.mark.slow
def test_a_killed_registry_goes_on_when_it_is_back(database_url: str, tmp_path: Path, source: Path) -> None:
    """The first registry is killed in mid-upload; the SDK's own retries reach the second."""
    more: dict[str, Any] = {"validation_threads": 0, "port": free_port()}
    processes = [registry.RegistryProcess(database_url, tmp_path, **more)]
    address = processes[0].address()

    def kill(done: int, _: int | None) -> None:
        if done >= 3 * MIB and len(processes) == 1:
            processes[0].end(signal.SIGKILL)
            processes.append(registry.RegistryProcess(database_url, tmp_path, **more))
            processes[1].address()

    try:
        with pytest.MonkeyPatch.context() as patch, client_of(address) as client:
            patch.setattr(sdk, "HUGE_BYTES", 2 * MIB)
            client.registry.register_version("m", "1", source, wait=False, progress=kill)
            assert b"".join(client.registry.download_chunks("m", "1")) == CONTENT
    finally:
        for process in processes:
            process.end(signal.SIGKILL)


def test_a_registry_that_stays_away_is_said_and_the_parts_wait(address: str, source: Path) -> None:
    with (
        Proxy(int(address.rpartition(":")[2])) as proxy,
        penstock.Client(registry=proxy.address, token="", retry=RetryPolicy(2, 0.01)) as client,
    ):

        def cut(done: int, _: int | None) -> None:
            if done >= 4 * MIB:
                proxy.cut()

        with pytest.raises(Unavailable):
            client.registry.register_version("m", "1", source, wait=False, progress=cut)
    bar = Bar()
    with client_of(address) as client:
        client.registry.register_version("m", "1", source, wait=False, progress=bar)
    assert bar.told[1] >= MIB
