"""Whether the features of a profile are called as what comes: of one that nothing fits nobody would ever hear."""

from __future__ import annotations

import re

import numpy as np
import pytest

from services.monitoring.profiles.models import BUCKET, Reference
from services.monitoring.profiles.naming import strange_to_events, strange_to_inputs
from services.monitoring.profiles.registrations import Inputs
from services.monitoring.profiles.sums import sum_up
from services.monitoring.profiles.versions import KnownVersion
from services.monitoring.registry_reader import Input
from tests.live_rows import AT, bins, counted, event, fields, named, tensors

X2 = (Input("X", 2),)
PEOPLE = (Input("X", 2, ("age", "income")),)
TWO = (Input("age", 1), Input("text", 0))


@pytest.mark.parametrize(
    ("reference", "inputs"),
    [
        (named("a", "b"), X2),
        (named("X[0]", "X[1]"), X2),
        (named("age", "income"), PEOPLE),
        (named("income"), PEOPLE),
        (named("a", "b", "c"), (Input("X", 0),)),
        (named("age", "text[1]"), TWO),
        (named("vector"), (Input("vector", 384),)),
    ],
)
def test_names_that_fit_are_no_matter(reference: Reference, inputs: Inputs) -> None:
    assert strange_to_inputs(reference, inputs) == ""


@pytest.mark.parametrize(
    ("reference", "inputs", "words"),
    [
        (
            named("a", "b"),
            (Input("X", 3),),
            "a, b of m's profile will be missing .* 3 columns, .* needs all of them; .* X\\[0\\]",
        ),
        (named("age", "debt"), PEOPLE, "^debt of m's profile will be missing in every row.* are age, income$"),
        (named("a", "b"), PEOPLE, "a, b of m's profile will be compared with age, income of the version, one by one"),
        (named("age", "b"), TWO, "^b of m's profile will be .*: no input .* the names are age, text"),
    ],
)
def test_features_that_no_input_has_are_named_and_so_are_the_inputs(
    reference: Reference, inputs: Inputs, words: str
) -> None:
    assert re.search(words, strange_to_inputs(reference, inputs))


def test_where_a_version_is_not_registered_its_events_tell() -> None:
    by_name = [event(fields({"age": 1.0, "city": "x"}))]
    assert strange_to_events(named("age"), by_name) == ""
    said = strange_to_events(named("age", "income"), by_name)
    assert "income of m's profile will be missing in every row: the newest prediction had none called so" in said
    assert said.endswith("the names are age, city")
    assert strange_to_events(named("a", "b"), [event(tensors(X=np.ones((1, 2), np.float32)))]) == ""


def test_a_model_that_nobody_knows_is_doubted_and_one_that_predicted_is_not() -> None:
    (doubt,) = KnownVersion((), (), "no model 'chrun' is registered").warnings(named("age"))
    assert doubt.startswith("no model 'chrun' is registered; one that others serve is known once")
    assert KnownVersion((), [event(fields({"age": 1.0}))], "").warnings(named("age")) == []


def test_columns_that_were_declared_are_counted_by_their_names_whatever_the_order_of_the_file() -> None:
    columns = ("age", "income", "debt")
    events = [event(tensors(X=np.array([[-1.0, 1.0, 1.0]], np.float32)))]
    live = sum_up(named("income", "age"), AT, AT + BUCKET, [(AT, counted(events, named("income", "age"), columns))])
    assert [bins(live.features[name]) for name in ("age", "income")] == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert live.unknown_features == {}, "the profile was made without debt on purpose"


def test_columns_are_told_by_their_place_where_the_profile_has_none_of_the_declared_names() -> None:
    reference = named("a", "b")
    events = [event(tensors(X=np.array([[-1.0, 1.0]], np.float32)))]
    live = sum_up(reference, AT, AT + BUCKET, [(AT, counted(events, reference, ("age", "income")))])
    assert [bins(live.features[name]) for name in ("a", "b")] == [[1, 0, 0, 0], [0, 1, 0, 0]]
