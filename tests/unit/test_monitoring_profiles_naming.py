"""Whether the features of a profile are called as what comes: of one that nothing fits nobody would ever hear."""

from __future__ import annotations

import re

import numpy as np
import pytest

from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.naming import in_order_of, layout_of, strange_to_events, strange_to_inputs
from services.monitoring.profiles.reference import Description
from services.monitoring.profiles.registrations import Inputs
from services.monitoring.profiles.versions import KnownVersion
from services.monitoring.registry_reader import Input
from tests.live_rows import event, fields, named, tensors

X2 = (Input("X", 2),)
PEOPLE = (Input("X", 2, ("age", "income")),)
TWO = (Input("age", 1), Input("text", 0))


@pytest.mark.parametrize(
    ("reference", "inputs"),
    [
        (named("a", "b"), X2),
        (named("X[0]", "X[1]"), X2),
        (named("age", "income"), PEOPLE),
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
            "with a, b of m's profile: .* 3 columns, .* needs all of them; .* X\\[0\\]",
        ),
        (named("age"), PEOPLE, "with age of m's profile: the version's only input has 2 columns.* are age, income"),
        (named("a", "b"), PEOPLE, "a, b of m's profile will be compared with age, income of the version, one by one"),
        (named("age", "b"), TWO, "compared with b of m's profile: no input .* the names are age, text"),
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
    assert "compared with income of m's profile: the newest prediction had none called so" in said
    assert said.endswith("the names are age, city")
    assert strange_to_events(named("a", "b"), [event(tensors(X=np.ones((1, 2), np.float32)))]) == ""


def test_a_model_that_nobody_knows_is_doubted_and_one_that_predicted_is_not() -> None:
    (doubt,) = KnownVersion((), (), "no model 'chrun' is registered").warnings(named("age"))
    assert doubt.startswith("no model 'chrun' is registered; one that others serve is known once")
    assert KnownVersion((), [event(fields({"age": 1.0}))], "").warnings(named("age")) == []


def test_features_are_put_into_the_order_of_the_columns_that_were_declared() -> None:
    features = named("income", "age", "prediction").features
    description = Description(20, features, None, 0, 0.0)
    assert list(in_order_of(PEOPLE, description).features) == ["age", "income", "prediction"]
    assert list(in_order_of(X2, description).features) == ["income", "age", "prediction"]


def test_columns_that_were_declared_name_those_of_a_tensor() -> None:
    layout = layout_of(PEOPLE)
    assert layout is not None
    assert layout.features == ("age", "income")
    assert layout_of(X2) is None
    assert layout_of(TWO) is None
