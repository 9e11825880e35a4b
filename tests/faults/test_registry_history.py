"""Whatever is done to a model, in whatever order and by however many: it ends as a model in memory says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from tests import quick_registry, registry
from tests.memory_registry import ALIASES, NAMES, STAGES, Memory
from tests.postgres import PostgresServer
from tests.quick_registry import BAD, GOOD, Registry, unique

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]  # thousands of moves take as long as they take
names, aliases = st.sampled_from(NAMES), st.sampled_from(ALIASES)
numbers = itertools.count(1)
SAID = {None: "VALIDATING", True: "READY", False: "FAILED"}


class Caller:
    """Does things to one model of a real registry. Every call gives "" or the reason of its refusal."""

    def __init__(self, here: Registry, model: str) -> None:
        self._here = here
        self._stub = here.models
        self.model = model

    def register(self, name: str, *, ready: bool, stage: str) -> str:
        content = unique(GOOD if ready else BAD)
        more = {"stage": pb.Stage.Value(f"STAGE_{stage}"), **registry.APPROVED}
        return self._outcome(
            lambda: quick_registry.register(self._here, name, model=self.model, content=content, **more)
        )

    def promote(self, name: str, stage: str) -> str:
        to_stage = pb.Stage.Value(f"STAGE_{stage or 'UNSPECIFIED'}")
        return self._outcome(lambda: registry.promote(self._stub, name, to_stage, self.model))

    def roll_back(self) -> str:
        return self._ask(self._stub.RollbackModel, pb.RollbackModelRequest(model=self.model, **registry.APPROVED))

    def set_alias(self, alias: str, name: str) -> str:
        return self._ask(self._stub.SetAlias, pb.SetAliasRequest(model=self.model, alias=alias, version=name))

    def delete_alias(self, alias: str) -> str:
        return self._ask(self._stub.DeleteAlias, pb.DeleteAliasRequest(model=self.model, alias=alias))

    def delete(self, name: str) -> str:
        return self._ask(self._stub.DeleteVersion, pb.DeleteVersionRequest(model=self.model, version=name))

    def restore(self, name: str) -> str:
        return self._ask(self._stub.RestoreVersion, pb.RestoreVersionRequest(model=self.model, version=name))

    def delete_model(self, *, force: bool) -> str:
        return self._ask(self._stub.DeleteModel, pb.DeleteModelRequest(name=self.model, force=force))

    def restore_model(self) -> str:
        return self._ask(self._stub.RestoreModel, pb.RestoreModelRequest(name=self.model))

    def resolve(self, selector: str) -> str:
        try:
            request = pb.ResolveVersionRequest(model=self.model, selector=selector)
            return self._stub.ResolveVersion(request, timeout=registry.DEADLINE_S).version.version
        except grpc.RpcError as error:
            return registry.refusal(error)[1]

    def versions(self) -> list[pb.ModelVersion]:
        """Give all versions that are there, the newest first."""
        try:
            request = pb.ListVersionsRequest(model=self.model, page_size=1_000)
            return list(self._stub.ListVersions(request, timeout=registry.DEADLINE_S).versions)
        except grpc.RpcError as error:
            if registry.refusal(error)[1] != "MODEL_NOT_FOUND":
                raise
            return []

    def moves(self) -> list[pb.Transition]:
        """Give all moves, the oldest first."""
        request = pb.ListTransitionsRequest(model=self.model, page_size=1_000)
        return list(reversed(self._stub.ListTransitions(request, timeout=registry.DEADLINE_S).transitions))

    def shown(self) -> pb.Model:
        return self._stub.GetModel(pb.GetModelRequest(name=self.model), timeout=registry.DEADLINE_S).model

    def _ask(self, call: Any, request: Any) -> str:
        return self._outcome(lambda: call(request, timeout=registry.DEADLINE_S))

    def _outcome(self, do: Callable[[], object]) -> str:
        try:
            do()
        except grpc.RpcError as error:
            return registry.refusal(error)[1]
        return ""


class History(RuleBasedStateMachine):
    """The same calls to the registry and to the model in memory."""

    def __init__(self, here: Registry, database_url: str) -> None:
        super().__init__()
        self._here = here
        self._database_url = database_url
        self.real = Caller(here, f"model-{next(numbers)}")
        self.memory = Memory()

    @initialize()
    def begin(self) -> None:
        """Begin with a model in use: two versions have been live, and one waits."""
        for name in NAMES[:3]:
            self.register(name, ready=True, stage="STAGING")
        for name in NAMES[:2]:
            self.promote(name, "PRODUCTION")

    @rule(name=names, ready=st.sampled_from([True, True, False]), stage=st.sampled_from(STAGES[:4]))
    def register(self, name: str, ready: bool, stage: str) -> None:
        """Register a version that may ask for a later stage."""
        told = self.real.register(name, ready=ready, stage=stage)
        assert told == self.memory.register(name, ready=ready, stage=stage)

    @rule(name=names, stage=st.sampled_from(["", "", *STAGES]))
    def promote(self, name: str, stage: str) -> None:
        """Move a version."""
        assert self.real.promote(name, stage) == self.memory.promote(name, stage)

    @rule()
    def roll_back(self) -> None:
        """Roll back."""
        assert self.real.roll_back() == self.memory.roll_back()

    @rule(alias=aliases, name=names)
    def set_alias(self, alias: str, name: str) -> None:
        """Point an alias."""
        assert self.real.set_alias(alias, name) == self.memory.set_alias(alias, name)

    @rule(alias=aliases)
    def delete_alias(self, alias: str) -> None:
        """Remove an alias."""
        assert self.real.delete_alias(alias) == self.memory.delete_alias(alias)

    @rule(name=names)
    def delete(self, name: str) -> None:
        """Delete a version."""
        assert self.real.delete(name) == self.memory.delete(name)

    @rule(name=names)
    def restore(self, name: str) -> None:
        """Restore a version."""
        assert self.real.restore(name) == self.memory.restore(name)

    @rule(name=names, then=st.sampled_from([None, "register", "rollback"]))
    def delete_and_restore(self, name: str, then: str | None) -> None:
        """Delete a version and restore it, with something in between."""
        self.delete(name)
        if then == "register":
            self.register(name, ready=True, stage="DEVELOPMENT")
        elif then == "rollback":
            self.roll_back()
        self.restore(name)

    @rule(name=names)
    def go_live(self, name: str) -> None:
        """Move a version all the way."""
        for stage in ("STAGING", "CANDIDATE", "STAGING", "PRODUCTION"):
            self.promote(name, stage)

    @rule(force=st.booleans(), chance=st.integers(0, 2))
    def delete_model(self, force: bool, chance: int) -> None:
        """Delete the model, and not too often; there is more to see while it is there."""
        if not chance:
            assert self.real.delete_model(force=force) == self.memory.delete_model(force=force)

    @rule(force=st.booleans())
    def delete_and_restore_model(self, force: bool) -> None:
        """Delete the model and restore it."""
        self.delete_model(force=force, chance=0)
        self.restore_model()

    @rule()
    def restore_model(self) -> None:
        """Restore the model."""
        assert self.real.restore_model() == self.memory.restore_model()

    @rule(chance=st.integers(0, 4))
    def purge(self, chance: int) -> None:
        """Let a week pass, now and then."""
        if chance:
            return
        with psycopg.connect(self._database_url, autocommit=True) as database:
            for table in ("models", "versions"):
                database.execute(f"UPDATE registry.{table} SET purge_time = delete_time WHERE NOT purged")
        self._here.administration.CollectGarbage(administration_pb2.CollectGarbageRequest())
        self.memory.purge()
        if not self.memory.exists:
            self.begin()

    @rule(selector=st.sampled_from(["", "latest", "production", "staging", *ALIASES, *NAMES]))
    def resolve(self, selector: str) -> None:
        """Ask what a selector means."""
        assert self.real.resolve(selector) == self.memory.resolve(selector)

    @invariant()
    def both_show_the_same(self) -> None:
        """Compare all that can be seen."""
        _compare(self.real, self.memory)


def _compare(real: Caller, memory: Memory) -> None:
    """Compare all that can be seen of a model with the one in memory."""
    shown = [(v.version, v.deployment_number, _state(v), _stage(v.stage)) for v in real.versions()]
    assert shown == [(v.name, v.number, SAID[v.ready], v.stage) for v in memory.visible]
    if not memory.exists or memory.deleted:
        return
    model = real.shown()
    live = memory.live.version.name if memory.live else ""
    assert (model.production_version, model.latest_version) == (live, memory.latest)
    assert dict(model.aliases) == {alias: version.name for alias, version in memory.aliases.items()}
    assert model.version_count == len(memory.versions)
    moves = [(m.version, _stage(m.from_stage), _stage(m.to_stage), _kind(m.kind)) for m in real.moves()]
    assert moves == memory.moves


def _state(version: pb.ModelVersion) -> str:
    return pb.VersionState.Name(version.state).removeprefix("VERSION_STATE_")


def _stage(stage: pb.Stage.ValueType) -> str:
    return pb.Stage.Name(stage).removeprefix("STAGE_")


def _kind(kind: pb.TransitionKind.ValueType) -> str:
    return pb.TransitionKind.Name(kind).removeprefix("TRANSITION_KIND_")


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.clone("registry")
    yield url
    postgres_server.drop(url)


@pytest.fixture(scope="module")
def here(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder: Path = tmp_path_factory.mktemp("registry")
    with quick_registry.running(registry.settings_for(database_url, folder)) as opened:
        yield opened


def test_one_caller_hears_what_a_model_in_memory_says(here: Registry, database_url: str) -> None:
    class HereAndNow(History):
        def __init__(self) -> None:
            super().__init__(here, database_url)

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def _act(real: Caller, chance: random.Random, new: str) -> str:
    """Do something to a model, most of all what others are likely to do too."""
    name, alias = chance.choice(NAMES[:2]), chance.choice(ALIASES)
    acts: list[Callable[[], str]] = [
        lambda: real.promote(name, ""),
        lambda: real.promote(name, "PRODUCTION"),
        lambda: real.promote(name, "STAGING"),
        lambda: real.promote(name, chance.choice(STAGES)),
        real.roll_back,
        lambda: real.set_alias(alias, name),
        lambda: real.delete_alias(alias),
        lambda: real.delete(name),
        lambda: real.restore(name),
        lambda: real.restore(name),
        lambda: real.register(new, ready=chance.random() < 0.8, stage=_wanted(new)),
        lambda: real.register(alias, ready=chance.random() < 0.5, stage=_wanted(alias)),
        lambda: real.delete_model(force=chance.random() < 0.5),
        real.restore_model,
        real.restore_model,
    ]
    return chance.choice(acts)()


def _wanted(name: str) -> str:
    """Give the stage that a version asks for when many register at once; the logs do not say it."""
    if name in NAMES[:2]:
        return "STAGING"
    return STAGES[int(name.partition(".")[2]) % 4] if name not in ALIASES else "CANDIDATE"


# What any of several callers may hear, depending on who came first.
REFUSALS = {
    "", "VERSION_EXISTS", "MODEL_DELETED", "MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "STAGE_MOVE_FORBIDDEN",
    "CONCURRENT_PROMOTION", "NOTHING_LIVE", "NO_PREDECESSOR", "VERSION_DELETED", "VERSION_NOT_READY", "VERSION_LIVE",
    "NOT_DELETED", "MODEL_LIVE", "ALIAS_NOT_FOUND", "VERSION_IS_ALIAS", "ALIAS_IS_VERSION",
}  # fmt: skip


def test_many_callers_at_once_leave_a_legal_history_behind(here: Registry) -> None:
    real = Caller(here, f"model-{next(numbers)}")
    for name in NAMES[:2]:
        real.register(name, ready=True, stage=_wanted(name))

    def act(seed: int) -> set[str]:
        chance = random.Random(seed)
        return {_act(real, chance, f"{seed}.{turn}") for turn in range(30)}

    with ThreadPoolExecutor(5) as pool:
        told = set().union(*pool.map(act, range(3, 8)))
    assert told <= REFUSALS
    real.restore_model()
    registry.wait_until(lambda: all(_state(version) != "VALIDATING" for version in real.versions()) or None)
    _compare(real, _replay(here, real))


def _replay(here: Registry, real: Caller) -> Memory:
    """Do to a model in memory what the audit log says was done, in the order of the commits: it takes every step."""
    request = administration_pb2.ListAuditEntriesRequest(model=real.model, page_size=1_000)
    listed = here.administration.ListAuditEntries(request, timeout=registry.DEADLINE_S)
    assert not listed.next_page_token
    memory = Memory()
    for entry in reversed(listed.entries):
        refused = _repeat(memory, entry)
        assert refused == "", (entry.action, entry.version, refused)
    return memory


def _repeat(memory: Memory, entry: administration_pb2.AuditEntry) -> str:
    name, before, after = entry.version, MessageToDict(entry.before), MessageToDict(entry.after)
    # What is replaced has an entry of its own, beside the one of what replaced it, which did it.
    if before.get("stage") == "PRODUCTION" and entry.action in ("PromoteVersion", "RollbackModel", "Validate"):
        return ""
    if entry.action == "RegisterVersion" and name:
        return memory.begin(name, stage=_wanted(name))
    if entry.action == "Validate":
        memory.validate(name, ready=after["state"] == "READY")
    (alias,) = {*before.get("aliases", {}), *after.get("aliases", {})} if "Alias" in entry.action else ("",)
    acts: dict[str, Callable[[], str]] = {
        "PromoteVersion": lambda: memory.promote(name, after["stage"]),
        "RollbackModel": memory.roll_back,
        "SetAlias": lambda: memory.set_alias(alias, name),
        "DeleteAlias": lambda: memory.delete_alias(alias),
        "DeleteVersion": lambda: memory.delete(name),
        "RestoreVersion": lambda: memory.restore(name),
        "DeleteModel": lambda: memory.delete_model(force=True),
        "RestoreModel": memory.restore_model,
    }
    return acts.get(entry.action, lambda: "")()
