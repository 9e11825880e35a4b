"""Every RPC of every service says which role it needs, and nobody with a weaker one gets any work done."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default

from services.common.errors import Aborted
from services.common.keys import KeyRing, Role
from services.common.metrics import MetricsServer
from services.common.server import Server, Service
from services.common.settings import ServerSettings
from tests.kit import bearing, write_keys

ROOT = Path(__file__).resolve().parents[2]
SERVICERS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(ROOT.glob("services/**/servicer.py"))
]
ROLES = {"none": Role.PUBLIC, "viewer": Role.VIEWER, "operator": Role.OPERATOR, "admin": Role.ADMIN}


def contracts() -> set[str]:
    """Every service that any proto file of the repository declares."""
    found = set()
    for path in ROOT.glob("protos/**/*.proto"):
        text = path.read_text()
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        assert package, path
        found |= {f"{package[1]}.{name}" for name in re.findall(r"^service (\w+)", text, re.MULTILINE)}
    return found


def test_every_service_of_the_contracts_has_its_table() -> None:
    assert {import_module(name).NAME for name in SERVICERS} == contracts()
    assert len(SERVICERS) >= 4


@pytest.mark.parametrize("name", SERVICERS)
def test_every_rpc_names_the_role_that_it_needs(name: str) -> None:
    servicer = import_module(name)
    service = Default().FindServiceByName(servicer.NAME)
    assert set(servicer.ROLES) == set(service.methods_by_name)
    assert set(servicer.ROLES) >= getattr(servicer, "ENDLESS", set())


@dataclass
class Guarded:
    """A service behind its own table of roles; in place of its work, it notes that it was reached."""

    name: str
    roles: dict[str, Role]
    port: int
    reached: list[str] = field(default_factory=list)


def generated(servicer: ModuleType) -> type[Any]:
    """Find the generated base of the module's servicer."""
    classes = [
        each for each in vars(servicer).values() if isinstance(each, type) and each.__name__.endswith("Servicer")
    ]
    bases = {base for each in classes for base in each.__mro__ if base.__module__.endswith("_pb2_grpc")}
    return next(base for base in bases if hasattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server"))


@pytest.fixture(params=SERVICERS)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    servicer = import_module(request.param)
    base = generated(servicer)
    found = Guarded(servicer.NAME, dict(servicer.ROLES), 0)

    def work(rpc: str) -> Callable[..., Any]:
        def reach(_self: object, _request: object, _context: object) -> Any:
            found.reached.append(rpc)
            raise Aborted("reached")

        return reach

    noting: Any = type("Noting", (base,), {rpc: work(rpc) for rpc in servicer.ROLES})
    add = getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")
    write_keys(tmp_path / "keys.json", viewer="viewer", operator="operator", admin="admin")
    keys = KeyRing(tmp_path / "keys.json")
    keys.open()
    service = Service(servicer.NAME, partial(add, noting()), servicer.ROLES)
    settings = ServerSettings(port=0, metrics_port=0, access_log_share=0)
    server = Server(settings, [service], keys=keys, metrics=MetricsServer("127.0.0.1", 0))
    found.port = server.open()
    yield found
    server.close()


def call(channel: grpc.Channel, service: str, rpc: str, caller: str) -> grpc.StatusCode:
    """Call any RPC with an empty message, whatever its kind, and say how that ended."""
    method = Default().FindServiceByName(service).methods_by_name[rpc]
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    ask = kinds[method.client_streaming, method.server_streaming](f"/{service}/{rpc}")
    metadata = () if caller == "none" else bearing(caller)
    try:
        answer = ask(iter([b""]) if method.client_streaming else b"", metadata=metadata, timeout=60)
        if method.server_streaming:
            next(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_a_weaker_role_is_refused_before_any_work_and_a_stronger_one_is_not(guarded: Guarded) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{guarded.port}") as channel:
        for rpc, needed in guarded.roles.items():
            for caller, role in ROLES.items():
                guarded.reached.clear()
                code = call(channel, guarded.name, rpc, caller)
                if role < needed:
                    refused = grpc.StatusCode.UNAUTHENTICATED if caller == "none" else grpc.StatusCode.PERMISSION_DENIED
                    assert (rpc, caller, code, guarded.reached) == (rpc, caller, refused, [])
                else:
                    assert (rpc, caller, code, guarded.reached) == (rpc, caller, grpc.StatusCode.ABORTED, [rpc])
