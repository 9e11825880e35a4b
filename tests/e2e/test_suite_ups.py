"""More than one suite on a machine, and the kill -9 of a suite that has data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.embedded import all_gone, eventually
from tests.suite import FLOWER, RunningSuite, answers, serve_tiny_model, start_suite

pytestmark = pytest.mark.slow
__all__ = ["start_suite"]


def test_two_suites_live_side_by_side_and_each_keeps_its_data_through_a_kill_of_its_own(
    tmp_path: Path, start_suite: Callable[[Path], RunningSuite]
) -> None:
    one, other = start_suite(tmp_path / "one"), start_suite(tmp_path / "other")
    assert not set(one.state.addresses.values()) & set(other.state.addresses.values())
    serve_tiny_model(one.client)
    assert one.json("model", "list")[0]["name"] == "tiny"
    assert other.json("model", "list") == []
    with one.client() as client:
        inference_id = client.inference.predict("tiny", FLOWER).inference_id
    eventually(lambda: inference_id in events(one))

    before, untouched = one.started, other.state
    psutil.Process(one.state.supervisor.pid).kill()
    eventually(lambda: all_gone(before))
    assert one.run("status").returncode == 6
    assert other.state == untouched
    # Of PostgreSQL's own, some come and go.
    assert all(mark.find() for mark in (untouched.supervisor, *untouched.children.values()))
    assert other.json("status")["healthy"]

    one.up()
    assert one.json("model", "versions", "tiny")[0]["state"] == "ready"
    assert inference_id in events(one)
    with one.client() as client:
        eventually(lambda: answers(client))


def test_a_second_up_on_the_folder_names_the_first_and_touches_nothing(
    tmp_path: Path, start_suite: Callable[[Path], RunningSuite]
) -> None:
    first = start_suite(tmp_path / "data")
    state = first.state
    for arguments in (["up"], ["up", "--detach"]):
        second = first.run(*arguments)
        assert second.returncode == 4, second.stderr
        assert f"already runs on {first.folder.path} (pid {state.supervisor.pid})" in " ".join(second.stderr.split())
    assert first.state == state
    assert first.json("status")["healthy"]


def events(suite: RunningSuite) -> set[str]:
    with suite.client() as client:
        return {inference.event.inference_id for inference in client.monitoring.list_inferences()}
