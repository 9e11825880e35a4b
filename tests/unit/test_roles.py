"""Every RPC of every service says which role it needs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pool import Default

ROOT = Path(__file__).resolve().parents[2]
SERVICERS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(ROOT.glob("services/**/servicer.py"))
]


@pytest.mark.parametrize("name", SERVICERS)
def test_every_rpc_names_the_role_that_it_needs(name: str) -> None:
    servicer = import_module(name)
    service = Default().FindServiceByName(servicer.NAME)
    assert set(servicer.ROLES) == set(service.methods_by_name)
    assert set(servicer.ROLES) >= getattr(servicer, "ENDLESS", set())


def test_the_services_are_found() -> None:
    assert {"services.registry.servicer", "services.monitoring.servicer", "services.inference.servicer"} <= {*SERVICERS}
