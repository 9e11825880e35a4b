"""Columns of Arrow as PostgreSQL's array literals: rows go into a statement whole, and no table is made for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow


def array_literal(values: pyarrow.Array) -> str:
    """Write an array as `{1,NULL,2}`; texts are quoted."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_string(values.type):
        texts = compute.replace_substring(compute.replace_substring(values, "\\", "\\\\"), '"', '\\"')
        texts = compute.binary_join_element_wise('"', texts, '"', "")
    else:
        texts = values.cast(pyarrow.string())
    whole = pyarrow.ListArray.from_arrays(pyarrow.array([0, len(texts)], pyarrow.int32()), texts.fill_null("NULL"))
    joined: str = compute.binary_join(whole, ",")[0].as_py()
    return f"{{{joined}}}"
