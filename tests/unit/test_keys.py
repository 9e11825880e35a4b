"""API keys: who is let in, and what happens when the file changes under a running service."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from services.common import keys
from services.common.errors import FailedPrecondition, PermissionDenied, Unauthenticated
from services.common.keys import ANONYMOUS, KeyRing, Principal, Role


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock decides when the file is looked at again; here, always."""
    monkeypatch.setattr(keys, "RELOAD_INTERVAL_S", 0.0)


def entry(token: str, role: str = "viewer", **more: str) -> dict[str, str]:
    return {"id": token, "name": f"{token}-name", "role": role, "sha256": sha256(token.encode()).hexdigest(), **more}


def write(path: Path, *entries: dict[str, str]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": entries}))
    fresh.replace(path)


def ring(path: Path | None) -> KeyRing:
    keys = KeyRing(path)
    keys.open()
    return keys


def test_without_a_file_everyone_is_anonymous() -> None:
    assert ring(None).authenticate(None) == ANONYMOUS
    assert not ring(None).enforced


def test_a_missing_file_locks_nobody_out_until_it_appears(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = ring(path)
    assert keys.authenticate(None) == ANONYMOUS
    write(path, entry("secret"))
    with pytest.raises(Unauthenticated) as caught:
        keys.authenticate(None)
    assert caught.value.reason == "MISSING_KEY"


def test_a_key_in_many_spellings_fills_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "keys.json", entry("secret"))
    keys = ring(tmp_path / "keys.json")
    for width in range(1, 100):
        for spelling in (f"bearer {' ' * width}secret", f"Bearer secret{' ' * width}", f"{' ' * width}secret"):
            assert keys.authenticate(spelling).name == "secret-name"
    assert keys.authenticate("secret") == keys.authenticate("Bearer secret")
    assert set(keys._keys.seen) == {"secret", "Bearer secret"}


def test_service_keys_alone_lock_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("inference", "operator", kind="service"))
    keys = ring(path)
    assert keys.authenticate(None) == ANONYMOUS
    assert keys.authenticate("Bearer inference").name == "inference-name"


@pytest.mark.parametrize("authorization", ["Bearer secret", "bearer secret", "secret", "Bearer  secret "])
def test_a_key_comes_as_bearer_or_bare(tmp_path: Path, authorization: str) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("secret", "operator"))
    assert ring(path).authenticate(authorization) == Principal("secret-name", Role.OPERATOR)


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Basic secret", "Bearer é"])
def test_an_unknown_key_is_refused(tmp_path: Path, authorization: str) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("secret"))
    with pytest.raises(Unauthenticated) as caught:
        ring(path).authenticate(authorization)
    assert caught.value.reason == "UNKNOWN_KEY"
    assert "secret" not in caught.value.message


def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    past = datetime.now(UTC) - timedelta(seconds=1)
    write(path, entry("secret", expire_time=past.isoformat()))
    with pytest.raises(Unauthenticated) as caught:
        ring(path).authenticate("secret")
    assert caught.value.reason == "EXPIRED_KEY"


def test_a_revoked_key_stops_working_and_a_new_one_works_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("old"))
    keys = ring(path)
    assert keys.authenticate("old").name == "old-name"
    write(path, entry("new"))
    assert keys.authenticate("new").name == "new-name"
    with pytest.raises(Unauthenticated):
        keys.authenticate("old")


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", '{"keys": [{}]}', '{"keys": [{"sha256": "x", "name": 1, "role": "king"}]}']
)
def test_a_broken_edit_keeps_the_keys_that_were_in_force(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("secret"))
    keys = ring(path)
    path.write_text(broken)
    assert keys.authenticate("secret").name == "secret-name"
    with pytest.raises(Unauthenticated):
        keys.authenticate(None)


def test_a_deleted_file_opens_no_door(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("secret"))
    keys = ring(path)
    path.unlink()
    with pytest.raises(Unauthenticated):
        keys.authenticate(None)


def test_revoking_the_last_key_opens_no_door(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("secret"))
    keys = ring(path)
    write(path)
    for authorization in (None, "secret"):
        with pytest.raises(Unauthenticated):
            keys.authenticate(authorization)
    assert keys.enforced


def test_an_expiry_without_a_time_zone_is_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("secret", expire_time="2030-01-01"))
    with pytest.raises(FailedPrecondition, match="time zone"):
        ring(path)


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{")
    with pytest.raises(FailedPrecondition) as caught:
        ring(path)
    assert caught.value.reason == "KEYS_UNREADABLE"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.ADMIN])
@pytest.mark.parametrize("needed", [Role.VIEWER, Role.OPERATOR, Role.ADMIN])
def test_a_role_may_do_what_it_and_the_weaker_ones_may(role: Role, needed: Role) -> None:
    principal = Principal("someone", role)
    if role >= needed:
        keys.require(principal, needed, "Service/Rpc")
        return
    with pytest.raises(PermissionDenied) as caught:
        keys.require(principal, needed, "Service/Rpc")
    assert caught.value.reason == "ROLE_TOO_WEAK"
    assert needed.name.lower() in caught.value.message
