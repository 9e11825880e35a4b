"""Texts of whole columns, within bounds: what grows beyond a feature's text is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from services.common.errors import InvalidArgument

if TYPE_CHECKING:
    import pyarrow

MAX_TEXT_BYTES: Final = 16 * 1024
MAX_COLUMN_BYTES: Final = 64 * 1024 * 1024
FLOAT: Final = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
INT: Final = r"^-?[0-9]{1,18}$"


def bounded(array: pyarrow.Array) -> pyarrow.Array:
    """Leave out what is longer than a feature's text.

    Raises:
        InvalidArgument: the column takes more memory than one may (TOO_LARGE).
    """
    import pyarrow
    from pyarrow import compute

    if array.nbytes > MAX_COLUMN_BYTES:
        sentence = f"an expression makes {array.nbytes:,} bytes of text of these rows; {MAX_COLUMN_BYTES:,} are allowed"
        raise InvalidArgument(f"{sentence}: send fewer rows at once", reason="TOO_LARGE")
    fits = compute.less_equal(compute.binary_length(array), MAX_TEXT_BYTES)
    return compute.if_else(fits, array, pyarrow.scalar(None, array.type))


def join(left: pyarrow.Array, right: pyarrow.Array) -> pyarrow.Array:
    """Put one text behind another."""
    from pyarrow import compute

    return bounded(compute.binary_join_element_wise(left, right, ""))


def changed(name: str) -> Callable[..., pyarrow.Array]:
    """Make a kernel of one of Arrow's functions of texts."""

    def kernel(array: pyarrow.Array) -> pyarrow.Array:
        from pyarrow import compute

        return bounded(compute.call_function(name, [array]))

    return kernel


def parsed(pattern: str, kind: Callable[[], Any]) -> Callable[..., pyarrow.Array]:
    """Make a kernel that reads numbers; what is none is missing."""

    def kernel(array: pyarrow.Array) -> pyarrow.Array:
        import pyarrow
        from pyarrow import compute

        fits = compute.match_substring_regex(array, pattern)
        return compute.if_else(fits, array, pyarrow.scalar(None, array.type)).cast(kind())

    return kernel
