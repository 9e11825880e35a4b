"""The functions of expressions: what each takes and gives, and how it does whole columns at once.

Where an argument is missing the result is, too, save for those in `PRESERVING`, which look at what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.registry.features.expressions import arithmetic, lists, texts
from services.registry.features.models import FeatureType

if TYPE_CHECKING:
    import pyarrow

F, N, B = FeatureType.FLOAT64, FeatureType.INT64, FeatureType.BOOL
S, L, T = FeatureType.STRING, FeatureType.FLOAT64_LIST, FeatureType.TIMESTAMP
SECOND_US: Final = 1_000_000
Kernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which a function is called.

    Attributes:
        takes: the types of its arguments; of one that is `variadic` the type of all, two at the least.
        gives: the type of its result.
        kernel: does it, given an array an argument.
        literals: the places of arguments that must be written out, and are given as they are.
    """

    takes: Sequence[FeatureType]
    gives: FeatureType
    kernel: Kernel
    variadic: bool = False
    literals: frozenset[int] = frozenset()


def _arrow(name: str, **options: Any) -> Kernel:
    def kernel(*arrays: Any) -> Any:
        from pyarrow import compute

        return getattr(compute, name)(*arrays, **options)

    return kernel


def _matching(name: str) -> Kernel:
    def kernel(array: pyarrow.Array, pattern: str) -> pyarrow.Array:
        from pyarrow import compute

        return getattr(compute, name)(array, pattern)

    return kernel


def _cast(kind: str) -> Kernel:
    def kernel(array: pyarrow.Array) -> pyarrow.Array:
        return array.cast(kind, safe=False)

    return kernel


def _calendar(name: str, **options: Any) -> Kernel:
    def kernel(array: pyarrow.Array) -> pyarrow.Array:
        from pyarrow import compute, timestamp

        return getattr(compute, name)(array.cast(timestamp("us")), **options).cast("int64")

    return kernel


def _folded(pair: Kernel) -> Kernel:
    return lambda *arrays: reduce(pair, arrays)


def _float64() -> Any:
    import pyarrow

    return pyarrow.float64()


def _int64() -> Any:
    import pyarrow

    return pyarrow.int64()


def _of_double(work: Callable[..., Any], arity: int = 1) -> list[Form]:
    return [Form([F] * arity, F, arithmetic.floats(work))]


def _length_kernel(array: pyarrow.Array) -> pyarrow.Array:
    from pyarrow import compute

    return compute.utf8_length(array).cast("int64")


def _extreme(work: Callable[..., Any]) -> list[Form]:
    whole = _folded(arithmetic.ints(lambda a, b: (work(a, b), None)))
    return [
        Form([N], N, whole, variadic=True),
        Form([F], F, _folded(arithmetic.floats(work)), variadic=True),
        Form([T], T, whole, variadic=True),
    ]


def _span(unit_us: int) -> list[Form]:
    return [Form([N], N, arithmetic.ints(arithmetic.scaled(unit_us)))]


FUNCTIONS: Final[Mapping[str, Sequence[Form]]] = {
    "abs": [Form([N], N, arithmetic.ints(arithmetic.absolute)), *_of_double(np.abs)],
    "sqrt": _of_double(np.sqrt),
    "exp": _of_double(np.exp),
    "ln": _of_double(np.log),
    "log10": _of_double(np.log10),
    "power": _of_double(np.power, 2),
    "floor": _of_double(np.floor),
    "ceil": _of_double(np.ceil),
    "round": _of_double(np.rint),
    "min": _extreme(np.minimum),
    "max": _extreme(np.maximum),
    "is_nan": [Form([F], B, _arrow("is_nan"))],
    "float": [
        Form([N], F, _cast("float64")),
        Form([B], F, lambda array: array.cast("int8").cast("float64")),
        Form([S], F, texts.parsed(texts.FLOAT, _float64)),
        Form([F], F, lambda array: array),
    ],
    "int": [
        Form([F], N, arithmetic.ints(arithmetic.whole)),
        Form([B], N, lambda array: array.cast("int8").cast("int64")),
        Form([S], N, texts.parsed(texts.INT, _int64)),
        Form([T], N, lambda array: array),
        Form([N], N, lambda array: array),
    ],
    "timestamp": [Form([N], T, lambda array: array)],
    "string": [Form([N], S, _cast("string")), Form([B], S, _cast("string")), Form([S], S, lambda array: array)],
    "length": [Form([S], N, _length_kernel), Form([L], N, lists.length)],
    "lower": [Form([S], S, texts.changed("utf8_lower"))],
    "upper": [Form([S], S, texts.changed("utf8_upper"))],
    "trim": [Form([S], S, texts.changed("utf8_trim_whitespace"))],
    "contains": [Form([S, S], B, _matching("match_substring"), literals=frozenset({1}))],
    "starts_with": [Form([S, S], B, _matching("starts_with"), literals=frozenset({1}))],
    "ends_with": [Form([S, S], B, _matching("ends_with"), literals=frozenset({1}))],
    "element": [Form([L, N], F, lists.element, literals=frozenset({1}))],
    "sum": [Form([L], F, lists.total)],
    "mean": [Form([L], F, lists.mean)],
    "dot": [Form([L, L], F, lists.dot)],
    "seconds": _span(SECOND_US),
    "minutes": _span(60 * SECOND_US),
    "hours": _span(3_600 * SECOND_US),
    "days": _span(86_400 * SECOND_US),
    "year": [Form([T], N, _calendar("year"))],
    "month": [Form([T], N, _calendar("month"))],
    "day": [Form([T], N, _calendar("day"))],
    "weekday": [Form([T], N, _calendar("day_of_week", count_from_zero=False, week_start=1))],
    "hour": [Form([T], N, _calendar("hour"))],
}
"""By name. The first form that takes what is there, whole numbers as doubles where none takes them as they are."""
PRESERVING: Final = frozenset({"is_missing", "coalesce", "missing_if"})
"""Functions that take any type; the language knows them itself."""
CLOCKS: Final = frozenset({"event_time", "read_time"})
"""Functions without arguments that give a point in time a row."""
