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
from tests.memory_registry import NAMES, STAGES, Memory
from tests.postgres import PostgresServer
from tests.quick_registry import BAD, GOOD, Registry, unique

pytestmark = pytest.mark.slow
ALIASES = ("blue", "green")
names, aliases = st.sampled_from(NAMES), st.sampled_from(ALIASES)
numbers = itertools.count(1)


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
        memory = self.memory
        shown = [(v.version, v.deployment_number, _state(v), _stage(v.stage)) for v in self.real.versions()]
        assert shown == [(v.name, v.number, "READY" if v.ready else "FAILED", v.stage) for v in memory.visible]
        if not memory.exists or memory.deleted:
            return
        model = self.real.shown()
        live = memory.live.version.name if memory.live else ""
        assert (model.production_version, model.latest_version) == (live, memory.latest)
        assert dict(model.aliases) == {alias: version.name for alias, version in memory.aliases.items()}
        assert model.version_count == len(memory.versions)
        moves = [(m.version, _stage(m.from_stage), _stage(m.to_stage), _kind(m.kind)) for m in self.real.moves()]
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
        lambda: real.register(new, ready=True, stage=chance.choice(STAGES[:4])),
        lambda: real.delete_model(force=chance.random() < 0.5),
        real.restore_model,
        real.restore_model,
    ]
    return chance.choice(acts)()


# What any of several callers may hear, depending on who came first.
REFUSALS = {
    "", "VERSION_EXISTS", "MODEL_DELETED", "MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "STAGE_MOVE_FORBIDDEN",
    "CONCURRENT_PROMOTION", "NOTHING_LIVE", "NO_PREDECESSOR", "VERSION_DELETED", "VERSION_NOT_READY", "VERSION_LIVE",
    "NOT_DELETED", "MODEL_LIVE", "ALIAS_NOT_FOUND",
}  # fmt: skip


def test_many_callers_at_once_leave_a_legal_history_behind(here: Registry) -> None:
    real = Caller(here, f"model-{next(numbers)}")
    for name in NAMES[:2]:
        real.register(name, ready=True, stage="STAGING")

    def act(seed: int) -> set[str]:
        chance = random.Random(seed)
        return {_act(real, chance, f"{seed}.{turn}") for turn in range(30)}

    with ThreadPoolExecutor(5) as pool:
        told = set().union(*pool.map(act, range(5)))
    assert told <= REFUSALS
    real.restore_model()
    _check_moves(real)
    _check_audit(here, real)


def _check_moves(real: Caller) -> None:
    """Replay the log of moves: each is legal where it stands, and all of them lead to what there is."""
    numbers_given = sorted(move.deployment_number for move in real.moves() if _kind(move.kind) == "REGISTER")
    assert numbers_given == list(range(1, len(numbers_given) + 1))
    stages: dict[str, str] = {}
    chain: list[str] = []
    for move in real.moves():
        kind, to_stage = _kind(move.kind), _stage(move.to_stage)
        assert _stage(move.from_stage) == stages.get(move.version, "UNSPECIFIED")
        if kind == "PROMOTE" and to_stage == "PRODUCTION":
            chain.append(move.version)
        elif kind == "ROLLBACK" and to_stage == "ARCHIVED":
            assert chain.pop() == move.version
        elif kind == "ROLLBACK":
            assert chain[-1] == move.version, "a rollback went elsewhere than to the predecessor"
        stages[move.version] = to_stage
        assert list(stages.values()).count("PRODUCTION") <= 1
    there = {version.version: _stage(version.stage) for version in real.versions()}
    assert there == {name: stage for name, stage in stages.items() if name in there}
    assert real.shown().production_version == (chain[-1] if chain else "")


def _check_audit(here: Registry, real: Caller) -> None:
    """Replay the audit log: what each entry found is what those before it left, and the last leave what there is."""
    request = administration_pb2.ListAuditEntriesRequest(model=real.model, page_size=1_000)
    entries = list(here.administration.ListAuditEntries(request, timeout=registry.DEADLINE_S).entries)
    known: dict[str, dict[str, Any]] = {}
    pointed: dict[str, str] = {}
    for entry in reversed(entries):
        before, after = MessageToDict(entry.before), MessageToDict(entry.after)
        if entry.action in ("SetAlias", "DeleteAlias"):
            assert before.get("aliases", {}) == {a: pointed[a] for a in _aliases(before, after) if a in pointed}
            for alias in before.get("aliases", {}):
                del pointed[alias]
            pointed.update(after.get("aliases", {}))
            continue
        state = known.setdefault(entry.version, {})
        for kept in ("stage", "state", "delete_time"):
            if kept in before:
                assert state.get(kept) == before[kept], (entry.action, entry.version)
            if kept in after:
                state[kept] = after[kept]
        if entry.action == "DeleteVersion":
            for alias in before.get("aliases", ()):
                assert pointed.pop(alias) == entry.version
    there = {version.version: (_state(version), _stage(version.stage)) for version in real.versions()}
    said = {name: (state["state"], state["stage"]) for name, state in known.items() if name and not _gone(state)}
    assert said == there
    assert pointed == dict(real.shown().aliases)


def _gone(state: dict[str, Any]) -> bool:
    return state.get("delete_time") is not None


def _aliases(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {*before.get("aliases", {}), *after.get("aliases", {})}
