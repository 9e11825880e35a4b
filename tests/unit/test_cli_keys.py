"""`penstock key` and the file it keeps: what services rely on, and that no writer loses another's key."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from penstock.cli.__main__ import run
from penstock.cli.keys_file import InvalidKeyName, KeyExists, KeyNotFound, KeysFile, KeysFileError, Role
from services.common.errors import Unauthenticated
from services.common.keys import KeyRing
from services.common.keys import Role as ServiceRole


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "nested" / "keys.json")


def test_a_created_key_opens_the_services(file: KeysFile) -> None:
    key, token = file.create("ada", Role.OPERATOR)
    ring = KeyRing(file.path)
    ring.open()
    assert token.startswith("pk_")
    assert len(token) == 46
    principal = ring.authenticate(f"Bearer {token}")
    assert (principal.name, principal.role) == ("ada", ServiceRole.OPERATOR)
    assert file.list() == (key,)


def test_an_expired_key_is_refused_by_the_services(file: KeysFile) -> None:
    _, token = file.create("ada", Role.VIEWER, expire_time=datetime.now(UTC) - timedelta(seconds=2))
    ring = KeyRing(file.path)
    ring.open()
    with pytest.raises(Unauthenticated, match="expired"):
        ring.authenticate(token)
    assert file.list()[0].has_expired(datetime.now(UTC))


def test_the_file_holds_the_digest_and_never_the_key_and_is_private(file: KeysFile) -> None:
    _, token = file.create("ada", Role.ADMIN)
    content = file.path.read_text()
    assert token not in content
    assert sha256(token.encode()).hexdigest() in content
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert {path.name for path in file.path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_concurrent_creates_lose_no_key(file: KeysFile) -> None:
    def create(writer: int) -> None:
        for number in range(8):
            KeysFile(file.path).create(f"writer-{writer}-{number}", Role.VIEWER)

    threads = [threading.Thread(target=create, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = file.list()
    assert {key.name for key in keys} == {f"writer-{writer}-{number}" for writer in range(4) for number in range(8)}
    assert len({key.id for key in keys}) == 32


def test_a_second_key_of_a_name_is_refused_and_the_first_stays(file: KeysFile) -> None:
    key, _ = file.create("ada", Role.ADMIN)
    with pytest.raises(KeyExists, match="'ada' exists already"):
        file.create("ada", Role.VIEWER)
    assert file.list() == (key,)


def test_a_key_is_revoked_by_id_or_by_name(file: KeysFile) -> None:
    by_id, _ = file.create("ada", Role.ADMIN)
    by_name, _ = file.create("bob", Role.ADMIN)
    assert file.revoke(by_id.id) == by_id
    assert file.revoke("bob") == by_name
    assert file.list() == ()
    with pytest.raises(KeyNotFound):
        file.revoke("bob")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a\nb", "ä", "x" * 129])
def test_a_name_that_could_confuse_is_refused(file: KeysFile, name: str) -> None:
    with pytest.raises(InvalidKeyName):
        file.create(name, Role.VIEWER)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": [{}]}',
        '{"keys": ["a"]}',
        '{"keys": {"id": 1}}',
        '{"keys": [{"id": "1", "name": "a", "role": "god", "sha256": "", "create_time": ""}]}',
    ],
)
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(KeysFileError, match="no file of keys"):
        KeysFile(path).create("ada", Role.ADMIN)
    assert path.read_text() == content


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "secret" / "keys.json"
    real.parent.mkdir()
    link = tmp_path / "keys.json"
    link.symlink_to(real)
    KeysFile(link).create("ada", Role.ADMIN)
    assert link.is_symlink()
    assert len(KeysFile(real).list()) == 1


@pytest.fixture
def keys_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PENSTOCK_KEYS_FILE", raising=False)
    monkeypatch.delenv("PENSTOCK_DATA_DIR", raising=False)
    return tmp_path / ".penstock" / "keys.json"


def test_the_command_prints_the_key_alone_on_stdout(keys_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "create", "ada", "--role", "admin", "--expires", "90d"]) == 0
    printed = capsys.readouterr()
    token = printed.out.removesuffix("\n")
    (key,) = KeysFile(keys_path).list()
    assert key.sha256 == sha256(token.encode()).hexdigest()
    assert key.expire_time is not None
    assert timedelta(days=89) < key.expire_time - datetime.now(UTC) <= timedelta(days=90)
    assert "shown this once" in printed.err
    assert token not in printed.err


def test_the_command_lists_keys_without_their_secrets(keys_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["key", "create", "ada", "--role", "viewer"])
    capsys.readouterr()
    assert run(["key", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["name"] == "ada"
    assert listed["role"] == "viewer"
    assert listed["expire_time"] is None
    assert "sha256" not in listed
    assert "token" not in listed


def test_exit_codes_of_keys_tell_what_happened(keys_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "create", "ada", "--role", "admin"]) == 0
    assert run(["key", "create", "ada", "--role", "admin"]) == 4
    assert "[KEY_EXISTS]" in capsys.readouterr().err
    assert run(["key", "create", "a/b", "--role", "admin"]) == 2
    assert run(["key", "create", "bob", "--role", "king"]) == 2
    assert run(["key", "create", "bob", "--role", "admin", "--expires", "soon"]) == 2
    assert run(["key", "revoke", "bob"]) == 3
    assert run(["key", "revoke", "ada"]) == 0
    keys_path.write_text("broken")
    assert run(["key", "list"]) == 1


def test_the_keys_file_is_found_by_flag_over_environment_over_data_folder(
    keys_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "data"))
    assert run(["key", "create", "ada", "--role", "admin"]) == 0
    monkeypatch.setenv("PENSTOCK_KEYS_FILE", str(tmp_path / "said.json"))
    assert run(["key", "create", "ada", "--role", "admin"]) == 0
    assert run(["key", "create", "ada", "--role", "admin", "--keys-file", str(tmp_path / "flag.json")]) == 0
    for path in (tmp_path / "data" / "keys.json", tmp_path / "said.json", tmp_path / "flag.json"):
        assert len(KeysFile(path).list()) == 1


def test_limits_reach_the_services_and_are_listed(file: KeysFile, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--keys-file", str(file.path))
    limits = ("--requests-per-minute", "600", "--bytes-per-minute", "1000000")
    assert run(["key", "create", "ada", "--role", "viewer", *limits, *at]) == 0
    token = capsys.readouterr().out.strip()
    ring = KeyRing(file.path)
    ring.open()
    budget = ring.authenticate(token).budget
    assert budget is not None
    assert (budget.rates.requests_per_minute, budget.rates.bytes_per_minute) == (600, 1_000_000)
    assert run(["key", "list", "--json", *at]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed[0]["requests_per_minute"], listed[0]["bytes_per_minute"]) == (600, 1_000_000)


def test_a_key_without_limits_has_no_budget(file: KeysFile) -> None:
    _, token = file.create("ada", Role.VIEWER)
    ring = KeyRing(file.path)
    ring.open()
    assert ring.authenticate(token).budget is None


def test_a_limit_of_nothing_is_a_mistake(file: KeysFile) -> None:
    assert run(["key", "create", "ada", "--role", "viewer", "--requests-per-minute", "0"]) == 2
    assert file.list() == ()
