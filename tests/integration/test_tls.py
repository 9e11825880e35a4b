"""TLS and mutual TLS: who is let in, who is refused and told why, and new files without a restart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import penstock
from penstock import rotation
from penstock.api.registry.v1 import registry_pb2 as files
from penstock.credentials import Address, Credentials
from services.common import errors
from tests.certificates import Authority, Pair, certificate, replace
from tests.embedded import eventually
from tests.kit import Kit
from tests.services import CloneDatabase, running_inference, running_monitoring, running_registry
from tests.suite import FLOWER
from tests.testdata import models


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path, "theirs")


def serving(pair: Pair, client_ca_file: Path | None = None) -> dict[str, Any]:
    return {"tls_cert_file": pair.cert_file, "tls_key_file": pair.key_file, "tls_client_ca_file": client_ca_file}


def connect(kit: Kit, ca_file: Path, pair: Pair | None = None) -> penstock.Client:
    return penstock.Client(
        monitoring=f"grpcs://localhost:{kit.port}",
        registry=f"grpcs://localhost:{kit.port}",
        ca_file=ca_file,
        cert_file=pair.cert_file if pair else None,
        key_file=pair.key_file if pair else None,
        timeout_s=60,
        retry=penstock.NO_RETRIES,
    )


def ask(client: penstock.Client) -> int:
    return client.monitoring.get_metrics("iris").inference_count


def refusal(kit: Kit, ca_file: Path, pair: Pair | None = None) -> penstock.PenstockError:
    with connect(kit, ca_file, pair) as client, pytest.raises(penstock.Unavailable) as refused:
        ask(client)
    return refused.value


Make = Callable[[Authority, Authority], Pair]
BAD_SERVERS: dict[str, tuple[Make, str]] = {
    "expired": (lambda ours, _: ours.issue("server", valid=False), "has expired"),
    "foreign": (lambda _, theirs: theirs.issue("server"), "signed by none that ca_file vouches for"),
    "self-signed": (lambda ours, _: Pair(*certificate(ours.ca_file.parent)), "signed by none that ca_file vouches for"),
    "another host's": (lambda ours, _: ours.issue("server", host="elsewhere.example"), "for another name"),
}


@pytest.mark.parametrize(("make", "words"), BAD_SERVERS.values(), ids=list(BAD_SERVERS))
def test_a_server_with_a_bad_certificate_is_not_spoken_to(
    make: Make, words: str, tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    with Kit(tmp_path, **serving(make(ours, theirs))).running() as kit:
        refused = refusal(kit, ours.ca_file)
    assert refused.reason == "TLS_FAILED"
    assert words in refused.message


BAD_CLIENTS: dict[str, Callable[[Authority, Authority], Pair | None]] = {
    "none": lambda *_: None,
    "expired": lambda ours, _: ours.issue("client", valid=False),
    "foreign": lambda _, theirs: theirs.issue("client"),
    "self-signed": lambda ours, _: Pair(*certificate(ours.ca_file.parent)),
}


@pytest.mark.parametrize("make", BAD_CLIENTS.values(), ids=list(BAD_CLIENTS))
def test_under_mutual_tls_a_client_with_a_bad_certificate_is_refused(
    make: Callable[[Authority, Authority], Pair | None], tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    with Kit(tmp_path, **serving(ours.issue("server"), ours.ca_file)).running() as kit:
        refused = refusal(kit, ours.ca_file, make(ours, theirs))
        assert "take this client's certificate" in refused.message
        with connect(kit, ours.ca_file, ours.issue("good")) as client:
            assert ask(client) == 4


def test_plain_and_tls_do_not_meet_and_say_so(tmp_path: Path, ours: Authority) -> None:
    with Kit(tmp_path).running() as kit:
        assert "speaks plain text" in refusal(kit, ours.ca_file).message
    with (
        Kit(tmp_path, **serving(ours.issue("server"))).running() as kit,
        pytest.raises(penstock.Unavailable) as refused,
    ):
        penstock.Client(monitoring=f"localhost:{kit.port}", retry=penstock.NO_RETRIES).monitoring.get_metrics("iris")
    assert "may speak TLS" in refused.value.message


def test_a_key_that_is_not_the_certificates_stops_the_start_on_either_side(tmp_path: Path, ours: Authority) -> None:
    mixed = Pair(ours.issue("one").cert_file, ours.issue("two").key_file)
    with pytest.raises(errors.FailedPrecondition) as refused:
        Kit(tmp_path, **serving(mixed)).server.open()
    assert refused.value.reason == "TLS_MISMATCH"
    credentials = Credentials(ca_file=ours.ca_file, cert_file=mixed.cert_file, key_file=mixed.key_file)
    with pytest.raises(penstock.InvalidArgument) as broken:
        credentials.open(Address.parse("grpcs://localhost:1"), [])
    assert broken.value.reason == "BROKEN_TLS_FILES"


class Calling:
    """A client that calls all the time, and remembers what failed."""

    def __init__(self, client: penstock.Client) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.answered = 0
        self.failures: list[penstock.PenstockError] = []

    def __enter__(self) -> Calling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for_more(self) -> None:
        enough = self.answered + 20
        eventually(lambda: self.answered >= enough)

    def _call(self) -> None:
        while not self._stopping.is_set():
            try:
                ask(self._client)
            except penstock.PenstockError as error:
                self.failures.append(error)
            else:
                self.answered += 1


def serves(kit: Kit, ca_file: Path, pair: Pair | None = None) -> bool:
    """Say whether a client that comes now is served."""
    with connect(kit, ca_file, pair) as client:
        try:
            return ask(client) == 4
        except penstock.Unavailable:
            return False


def test_a_server_takes_its_new_certificate_without_a_failed_call(
    tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    pair = ours.issue("server")
    with (
        Kit(tmp_path, **serving(pair)).running() as kit,
        connect(kit, ours.ca_file) as client,
        Calling(client) as calling,
    ):
        calling.wait_for_more()
        pair.become(theirs.issue("new"))
        assert serves(kit, theirs.ca_file)
        assert not serves(kit, ours.ca_file)
        calling.wait_for_more()
    assert calling.failures == []


def test_a_server_takes_new_certificates_that_vouch_for_clients(
    tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    trusted = tmp_path / "trusted.pem"
    replace(trusted, ours.ca_file.read_bytes())
    us, them = ours.issue("us"), theirs.issue("them")
    with Kit(tmp_path, **serving(ours.issue("server"), trusted)).running() as kit:
        assert (serves(kit, ours.ca_file, us), serves(kit, ours.ca_file, them)) == (True, False)
        replace(trusted, theirs.ca_file.read_bytes())
        assert (serves(kit, ours.ca_file, us), serves(kit, ours.ca_file, them)) == (False, True)


@pytest.mark.parametrize("break_it", ["words", "cut", "mismatch", "gone"])
def test_a_server_keeps_its_certificate_while_the_new_files_are_of_no_use(
    break_it: str, tmp_path: Path, ours: Authority, theirs: Authority
) -> None:
    pair, new = ours.issue("server"), theirs.issue("new")
    with Kit(tmp_path, **serving(pair)).running() as kit:
        if break_it == "words":
            replace(pair.cert_file, b"no certificate")
        elif break_it == "cut":
            replace(pair.cert_file, pair.cert_file.read_bytes()[:200])
        elif break_it == "mismatch":
            replace(pair.cert_file, new.cert_file.read_bytes())
        else:
            pair.key_file.unlink()
        assert serves(kit, ours.ca_file)
        pair.become(new)
        assert serves(kit, theirs.ca_file)


@pytest.fixture
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LOOK_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("looks_each_time")
def test_a_client_takes_its_new_files_while_its_calls_go_on(
    tmp_path: Path, ours: Authority, theirs: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's authority and the client's change: first both are trusted, then the new one alone."""
    both = ours.ca_file.read_bytes() + theirs.ca_file.read_bytes()
    trusted, known = tmp_path / "trusted.pem", tmp_path / "known.pem"
    replace(trusted, ours.ca_file.read_bytes())
    replace(known, both)
    server, mine = ours.issue("server"), ours.issue("mine")
    with ExitStack() as stack:
        kit = stack.enter_context(Kit(tmp_path, **serving(server, known)).running())
        client = stack.enter_context(connect(kit, trusted, mine))
        watch = client.registry.watch()
        assert next(watch).revision == 1
        others: list[Iterator[files.WatchModelsResponse]] = []
        calling = stack.enter_context(Calling(client))
        calling.wait_for_more()
        replace(trusted, both)
        calling.wait_for_more()
        with caplog.at_level(logging.ERROR, "penstock.rotation"):
            replace(mine.cert_file, theirs.issue("new").cert_file.read_bytes())  # and its key not yet
            calling.wait_for_more()
        assert "stay" in caplog.text
        mine.become(theirs.issue("new"))
        server.become(theirs.issue("other"))
        calling.wait_for_more()
        eventually(lambda: list(kit.servicer.peer["x509_common_name"]) == [b"new"])
        replace(known, theirs.ca_file.read_bytes())
        assert not serves(kit, theirs.ca_file, ours.issue("past"))
        calling.wait_for_more()
        for _ in range(3):  # each looks at what is left of the channels of before
            others.append(client.registry.watch())
            assert next(others[-1]).revision == 1
        assert not kit.files.ended.is_set()  # the watch, over the first channel
        watch.close()  # type: ignore[attr-defined] # a generator in truth
        assert kit.files.ended.wait(60)
    assert calling.failures == []


@contextmanager
def counted_channels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[grpc.Channel]]:
    opened: list[grpc.Channel] = []
    closed: list[grpc.Channel] = []
    really = grpc.secure_channel

    def open_channel(*arguments: Any) -> grpc.Channel:
        channel = really(*arguments)
        close = channel.close

        def seen() -> None:
            closed.append(channel)
            close()

        channel.close = seen  # type: ignore[method-assign] # to see it happen
        opened.append(channel)
        return channel

    monkeypatch.setattr(grpc, "secure_channel", open_channel)
    opened_now: list[grpc.Channel] = []
    yield opened_now
    opened_now[:] = [channel for channel in opened if channel not in closed]


@pytest.mark.usefixtures("looks_each_time")
def test_channels_that_no_call_uses_are_closed(
    tmp_path: Path, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Kit(tmp_path, **serving(ours.issue("server"))).running() as kit:
        with counted_channels(monkeypatch) as left_open, connect(kit, ours.ca_file) as client:
            with counted_channels(monkeypatch) as open_now:
                for _ in range(20):
                    replace(ours.ca_file, ours.ca_file.read_bytes())
                    ask(client)
                ask(client)
            assert len(open_now) == 1
        assert left_open == []


@pytest.mark.usefixtures("looks_each_time")
def test_channels_that_wait_for_their_calls_are_bounded(tmp_path: Path, ours: Authority) -> None:
    with Kit(tmp_path, **serving(ours.issue("server"))).running() as kit, connect(kit, ours.ca_file) as client:
        watches = []
        for _ in range(rotation.MAX_RETIRED + 2):
            replace(ours.ca_file, ours.ca_file.read_bytes())
            watches.append(client.registry.watch())
            assert next(watches[-1]).revision == 1
        with pytest.raises(penstock.PenstockError):
            next(watches[0])
        assert next(client.registry.watch()).revision == 1


@pytest.mark.slow
def test_the_whole_suite_speaks_mutual_tls_and_predicts(
    clone_database: CloneDatabase, tmp_path: Path, ours: Authority
) -> None:
    """Each service has a certificate of its own, shows it to the others, and takes nobody without one."""

    def mutual(name: str) -> dict[str, Any]:
        return serving(ours.issue(name), ours.ca_file)

    with ExitStack() as stack:
        registry = stack.enter_context(running_registry(clone_database("registry"), tmp_path, **mutual("registry")))
        monitoring = stack.enter_context(running_monitoring(clone_database("monitoring"), **mutual("monitoring")))
        addresses: dict[str, Any] = {
            name: f"grpcs://localhost:{service.address.rpartition(':')[2]}"
            for name, service in (("registry", registry), ("monitoring", monitoring))
        }
        inference = stack.enter_context(
            running_inference(tmp_path, ca_file=ours.ca_file, **addresses, **mutual("inference"))
        )
        addresses["inference"] = f"grpcs://localhost:{inference.address.rpartition(':')[2]}"
        mine = ours.issue("mine")
        client = stack.enter_context(
            penstock.Client(**addresses, ca_file=ours.ca_file, cert_file=mine.cert_file, key_file=mine.key_file)
        )
        client.registry.register_version("tiny", "1", models.classifier(), framework="onnx")
        eventually(lambda: predicts(client))
        inference_id = client.inference.predict("tiny", FLOWER).inference_id
        eventually(lambda: recorded(client, inference_id))
        with penstock.Client(**addresses, ca_file=ours.ca_file, retry=penstock.NO_RETRIES) as stranger:
            for call in (
                lambda: stranger.registry.get_model("tiny"),
                lambda: ask(stranger),
                lambda: stranger.inference.predict("tiny", FLOWER),
            ):
                with pytest.raises(penstock.Unavailable):
                    call()


def predicts(client: penstock.Client) -> bool:
    try:
        client.inference.predict("tiny", FLOWER)
    except (penstock.NotFound, penstock.Unavailable):
        return False
    return True


def recorded(client: penstock.Client, inference_id: str) -> bool:
    try:
        return bool(client.monitoring.get_inference(inference_id).event.inference_id == inference_id)
    except penstock.NotFound:
        return False
