"""What expressions of features give, row by row, and what is no expression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.registry.features.expressions.arrays import to_array, to_column
from services.registry.features.expressions.language import MAX_CHARS, Refused, Rows, compiled
from services.registry.features.expressions.plan import computed, plan_of
from services.registry.features.models import Column, Computation, Feature, FeatureType, RequestValue

F, N, B = FeatureType.FLOAT64, FeatureType.INT64, FeatureType.BOOL
S, L, T = FeatureType.STRING, FeatureType.FLOAT64_LIST, FeatureType.TIMESTAMP
TYPES = {"x": F, "y": F, "n": N, "m": N, "b": B, "c": B, "s": S, "t": S, "v": L, "w": L, "at": T, "then": T}
MOST, LEAST = 2**63 - 1, -(2**63)
NAN, INF = math.nan, math.inf


def column(values: Sequence[Any]) -> Column:
    held = np.empty(len(values), dtype=object)
    held[:] = list(values)
    return Column(held, np.array([value is None for value in values], np.bool_))


def results(text: str, **values: Sequence[Any]) -> list[Any]:
    """Evaluate over columns; None is missing."""
    count = len(next(iter(values.values()))) if values else 1
    expression = compiled(text, TYPES)
    arrays = {name: to_array(TYPES[name], column(given), count) for name, given in values.items()}
    found = to_column(expression.kind, expression.run(Rows(count, arrays)))
    listed = [
        None if value is None else value.tolist() if hasattr(value, "tolist") else value for value in found.values
    ]
    return [None if gone else value for value, gone in zip(listed, found.missing.tolist(), strict=True)]


def one(text: str, **values: Any) -> Any:
    (found,) = results(text, **{name: [value] for name, value in values.items()})
    return found


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("n + m * 2", {"n": 1, "m": 3}, 7),
        ("n / m", {"n": 1, "m": 2}, 0.5),
        ("n + x", {"n": 1, "x": 0.5}, 1.5),
        ("-n", {"n": 3}, -3),
        ("n // m", {"n": -7, "m": 2}, -4),
        ("n % m", {"n": -7, "m": 2}, 1),
        ("n // m", {"n": 7, "m": 0}, None),
        ("n % m", {"n": 7, "m": 0}, None),
        ("n // m", {"n": LEAST, "m": -1}, None),
        ("n % m", {"n": LEAST, "m": -1}, 0),
        ("n + m", {"n": MOST, "m": 1}, None),
        ("n - m", {"n": LEAST, "m": 1}, None),
        ("n * m", {"n": 2**32, "m": 2**32}, None),
        ("-n", {"n": LEAST}, None),
        ("abs(n)", {"n": LEAST}, None),
        ("x / y", {"x": 1.0, "y": 0.0}, INF),
        ("x / y", {"x": -1.0, "y": 0.0}, -INF),
        ("n / m", {"n": 1, "m": 0}, INF),
        ("x * 1e308 * 10", {"x": 1.0}, INF),
        ("ln(x)", {"x": 0.0}, -INF),
        ("x // y", {"x": 7.5, "y": 2.0}, 3.0),
        ("x % y", {"x": -7.5, "y": 2.0}, 0.5),
        ("power(x, 2)", {"x": 3.0}, 9.0),
        ("round(x)", {"x": 2.5}, 2.0),
        ("floor(x) + ceil(x)", {"x": 1.5}, 3.0),
        ("int(x)", {"x": -1.9}, -1),
        ("int(x)", {"x": NAN}, None),
        ("int(x)", {"x": 2.0**63}, None),
        ("int(x)", {"x": -(2.0**63)}, LEAST),
        ("int(s)", {"s": "-12"}, -12),
        ("int(s)", {"s": "12.5"}, None),
        ("float(s)", {"s": "-1.5e3"}, -1500.0),
        ("float(s)", {"s": "nan"}, None),
        ("float(b) + int(b)", {"b": True}, 2.0),
        ("string(n) + s", {"n": 7, "s": "x"}, "7x"),
        ("min(n, m, 3)", {"n": 5, "m": 4}, 3),
        ("max(n, x)", {"n": 5, "x": 4.5}, 5.0),
        ("x < y", {"x": 1.0, "y": 2.0}, True),
        ("x == x", {"x": NAN}, False),
        ("x != x", {"x": NAN}, True),
        ("is_nan(x)", {"x": NAN}, True),
        ("0 < n <= 3", {"n": 3}, True),
        ("0 < n <= 3", {"n": 4}, False),
        ("n > 1.5", {"n": 2}, True),
        ("s < t", {"s": "Basel", "t": "Bern"}, True),
        ('s in ("Basel", "Bern")', {"s": "Bern"}, True),
        ("n not in (1, 2)", {"n": 1}, False),
        ("not b", {"b": False}, True),
        ("b and c", {"b": False, "c": None}, False),
        ("b and c", {"b": True, "c": None}, None),
        ("b or c", {"b": True, "c": None}, True),
        ("b or c", {"b": False, "c": None}, None),
        ("x if b else y", {"b": False, "x": 1.0, "y": 2.0}, 2.0),
        ("x if b else y", {"b": None, "x": 1.0, "y": 2.0}, None),
        ("n if b else x", {"b": True, "n": 1, "x": 2.0}, 1.0),
        ("v if b else w", {"b": False, "v": [1.0], "w": [2.0, 3.0]}, [2.0, 3.0]),
        ("x + y", {"x": None, "y": 1.0}, None),
        ("is_missing(x)", {"x": None}, True),
        ("is_missing(x)", {"x": NAN}, False),
        ("coalesce(x, y, 0)", {"x": None, "y": None}, 0.0),
        ("coalesce(v, w)", {"v": None, "w": [1.0]}, [1.0]),
        ("missing_if(is_nan(x), x)", {"x": NAN}, None),
        ("missing_if(b, n)", {"b": None, "n": 1}, 1),
        ("length(s)", {"s": "Zürich"}, 6),
        ("upper(trim(s))", {"s": " zürich "}, "ZÜRICH"),
        ('contains(s, ".")', {"s": "a.b"}, True),
        ('starts_with(lower(s), "ba")', {"s": "Basel"}, True),
        ('ends_with(s, "")', {"s": None}, None),
        ("length(v)", {"v": [1.0, 2.0]}, 2),
        ("element(v, 1)", {"v": [1.0, 2.0]}, 2.0),
        ("element(v, 2)", {"v": [1.0, 2.0]}, None),
        ("sum(v)", {"v": []}, 0.0),
        ("mean(v)", {"v": []}, None),
        ("mean(v)", {"v": [1.0, 2.0]}, 1.5),
        ("dot(v, w)", {"v": [1.0, 2.0], "w": [3.0, 4.0]}, 11.0),
        ("dot(v, w)", {"v": [1.0], "w": [3.0, 4.0]}, None),
        ("at - then", {"at": 10, "then": 4}, 6),
        ("at + days(2)", {"at": 0}, 172_800_000_000),
        ("days(n)", {"n": MOST}, None),
        ("at > then", {"at": 10, "then": 4}, True),
        ("weekday(at)", {"at": 0}, 4),  # 1970-01-01 was a Thursday
        ("year(at) * 10000 + month(at) * 100 + day(at)", {"at": -1}, 19691231),
        ("hour(at)", {"at": -1}, 23),
    ],
)  # fmt: skip
def test_an_expression_gives_what_the_page_says(text: str, values: dict[str, Any], expected: Any) -> None:
    found = one(text, **values)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["x / y", "x % y", "x // y"])
def test_zero_by_zero_is_nan(text: str) -> None:
    assert math.isnan(one(text, x=0.0, y=0.0))


def test_rows_do_not_see_each_other() -> None:
    lists: dict[str, list[Any]] = {"v": [[1.0, 2.0], None, [], [3.0]], "w": [[1.0, 1.0], [1.0], [], [2.0]]}
    assert results("dot(v, w)", **lists) == [3.0, None, 0.0, 6.0]
    assert results("sum(v)", v=lists["v"]) == [3.0, None, 0.0, 3.0]
    assert results("element(v, 0)", v=lists["v"]) == [1.0, None, None, 3.0]
    assert results("n // m", n=[4, 4, None], m=[2, 0, 1]) == [2, None, None]


WHOLE = st.integers(LEAST, MOST)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=1, max_size=20), st.sampled_from(["+", "-", "*", "//", "%"]))
@example([(LEAST, -1), (-1, LEAST), (MOST, MOST), (LEAST, LEAST), (0, LEAST), (3, 0)], "*")
def test_whole_numbers_are_exact_or_missing(pairs: list[tuple[int, int]], operator: str) -> None:
    def exact(a: int, b: int) -> int | None:
        if operator in ("//", "%") and b == 0:
            return None
        made = {"+": a + b, "-": a - b, "*": a * b}
        result = made[operator] if operator in made else a // b if operator == "//" else a % b
        return result if LEAST <= result <= MOST else None

    found = results(f"n {operator} m", n=[a for a, _ in pairs], m=[b for _, b in pairs])
    assert found == [exact(a, b) for a, b in pairs]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no expression"),
        ("x +", "no expression"),
        ("x + * y", "no expression at character 5"),
        ("x; y", "no expression"),
        ("__import__('os')", "there is no function '__import__'"),
        ("s.upper()", "is not part of the language"),
        ("().__class__", "is not part of the language"),
        ("v[0]", "is not part of the language"),
        ("lambda: 1", "is not part of the language"),
        ("[x for x in v]", "is not part of the language"),
        ("f'{x}'", "is not part of the language"),
        ("(y := x)", "is not part of the language"),
        ("x ** y", "cannot be done with a FLOAT64 and a FLOAT64"),
        ("n << m", "cannot be done"),
        ("'a' * n", "cannot be done with a STRING and an INT64"),
        ("round(x, n=2)", "is not part of the language"),
        ("z + 1", "there is no 'z'; there are x, y"),
        ("sqrt", "a function is called as sqrt(…)"),
        ("b'x'", "is no number"),
        ("1j", "is no number"),
        ("99999999999999999999", "is no number within 64 bits"),
        ("1e999", "is no number"),
        ("None", "missing_if"),
        ("x is y", "is_missing(x)"),
        ("s + n", "cannot be done with a STRING and an INT64"),
        ("s < n", "takes values of one type"),
        ("v == w", "cannot be compared"),
        ("b < c", "cannot be compared"),
        ("not n", "cannot be done with an INT64"),
        ("n and b", "a BOOL is wanted"),
        ("x if n else y", "a BOOL is wanted"),
        ("x if b else s", "takes values of one type"),
        ("at + then", "cannot be done"),
        ("s in t", "values that are written out"),
        ("contains(s, t)", "that is written out"),
        ("element(v, -1)", "from 0 on"),
        ("sqrt(s)", "sqrt was given STRING; it takes sqrt(FLOAT64)"),
        ("min(x)", "min was given FLOAT64"),
        ("coalesce(x)", "coalesce(a, b, …)"),
        ("event_time(x)", "takes no arguments"),
        ("'\\x00'", "backslash"),
        ("x" + " + x" * 150, "too large"),
        ("-" * 40 + "x", "too large"),
        ("(" * 150 + "x" + ")" * 150 + " " * 800, "characters"),
        ("(" * 250 + "x" + ")" * 250, "no expression"),
        ("-" * (MAX_CHARS - 1) + "x", "too large"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_said(text: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        compiled(text, TYPES)
    assert words in str(refused.value)


def test_texts_do_not_grow_without_bound() -> None:
    long = "x" * 10_000
    assert one("s + s", s=long) is None
    assert one("length(s + s)", s=long) is None
    doubling = "(" * 9 + "s" + " + s)" * 9
    with pytest.raises(InvalidArgument, match="fewer rows at once") as refused:
        results(doubling.replace("(", "", 9).replace(")", ""), s=["x" * 1_600] * 10_000)
    assert refused.value.reason == "TOO_LARGE"


def plan(*features: Feature, values: Mapping[str, FeatureType] | None = None) -> Any:
    return plan_of(features, tuple(RequestValue(name, kind) for name, kind in (values or {}).items()))


def test_features_are_computed_after_those_that_they_need() -> None:
    made = plan(
        Feature("c", F, expression="b * 2"), Feature("b", F, expression="a + 1"), Feature("a", F),
        Feature("d", F, expression="c + k", computation=Computation.ON_READ), values={"k": N},
    )  # fmt: skip
    assert [each.feature.name for each in made.on_write] == ["b", "c"]
    assert [each.feature.name for each in made.on_read] == ["d"]
    assert made.needed(["d"]) == {"d", "c", "k"}
    rows = {"a": Column(np.array([1.0, 2.0]), np.array([False, True]))}
    found = computed(made.on_write, made.types, rows, event_times=np.array([1, 2]))
    assert found["c"].values[0] == 4.0
    assert found["c"].missing.tolist() == [False, True]


def test_times_of_rows_are_known_where_something_is() -> None:
    age = Feature("age", N, expression="read_time() - event_time()", computation=Computation.ON_READ)
    made = plan(Feature("a", F), age)
    times = np.array([10, 0])
    found = computed(
        made.on_read, made.types, {}, event_times=times, known=np.array([True, False]), read_times=np.array([15, 15])
    )
    assert found["age"].values[0] == 5
    assert found["age"].missing.tolist() == [False, True]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([Feature("a", F, expression="a + 1")], "computed from itself"),
        ([Feature("a", F, expression="b"), Feature("b", F, expression="a")], "by way of a, b"),
        ([Feature("a", S, expression="1 + 1")], "it gives INT64, and the feature is STRING"),
        ([Feature("a", N, expression="read_time() - event_time()")], "read_time() is known on read alone"),
        ([Feature("a", F, expression="k + 1.0")], "'k' is known on read alone"),
        (
            [Feature("a", F, expression="b"), Feature("b", F, expression="1.0", computation=Computation.ON_READ)],
            "'b' is known on read alone",
        ),
    ],
)
def test_a_view_whose_expressions_cannot_be_computed_is_refused(features: list[Feature], words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        plan(*features, values={"k": F})
    assert refused.value.reason == "INVALID_EXPRESSION"
    assert words in refused.value.message
    assert refused.value.violations[0].field.startswith("view.features[")


WORDS = (
    "x y n b s v at + - * / // % ** < <= == != in not and or if else ( ) [ ] , . : := 1 2.5 'a' True None lambda is "
    "abs min coalesce element contains event_time missing_if"
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join) | st.text(max_size=40))
def test_whatever_is_written_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = compiled(text, TYPES)
    except Refused:
        return
    arrays = {name: to_array(TYPES[name], None, 2) for name in expression.names}
    arrays["event_time()"] = to_array(T, None, 2)
    assert len(expression.run(Rows(2, arrays))) == 2
