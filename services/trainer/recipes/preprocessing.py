"""What is done to columns before a model sees them, fitted on the training rows alone: it travels inside the version.

Numbers that are missing or not finite become the median, texts that are missing ('') the most frequent one. Then
numbers are scaled, and texts become a column of ones and zeros each; of a text that training never saw all are zero.
All of it is in single precision, step by step the same here, in the ONNX graph and in the SavedModel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.columns import is_number, numbers_of, require, texts_in
from services.trainer.task import Column

ONE_INPUT: Final = "features"
"""The only input of a version that takes numbers alone: FP32 [-1, n], a column each."""
MAX_WIDTH: Final = 100_000


@dataclass(frozen=True, slots=True)
class Number:
    """A column of numbers: `fill` in the place of what is missing, then less `center`, by `scale`."""

    name: str
    fill: float
    center: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Category:
    """A column of texts: `fill` in the place of '', then 1 in the place of its category."""

    name: str
    fill: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What makes a matrix FP32 [rows, width] of columns: the numbers first, then each text's categories.

    `order` is that in which a version takes the columns.
    """

    order: tuple[str, ...]
    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]

    @classmethod
    def fit(cls, table: pa.Table, columns: Sequence[str], *, scaled: bool, max_categories: int) -> Self:
        """Learn from the training rows; each column has a value in one of them at least."""
        numeric = [name for name in columns if is_number(table.schema.field(name).type)]
        textual = [name for name in columns if name not in numeric]
        fitted = cls(
            tuple(columns),
            tuple(_number(name, numbers_of(table, name), scaled=scaled) for name in numeric),
            tuple(_category(name, texts_in(table, name), max_categories) for name in textual),
        )
        if fitted.width > MAX_WIDTH:
            sentence = f"the columns become {fitted.width} with their categories; {MAX_WIDTH} at most: ignore some"
            raise TrainingFailed(sentence, reason="INVALID_DATA")
        return fitted

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return len(self.numbers) + sum(len(each.categories) for each in self.categories)

    @property
    def input_name(self) -> str:
        """The only input where all columns are numbers; '': each column is an input of its own, [-1, 1]."""
        return "" if self.categories else ONE_INPUT

    @property
    def features(self) -> tuple[Column, ...]:
        """What a version takes, in order."""
        texts = {each.name for each in self.categories}
        return tuple(Column(name, "BYTES" if name in texts else "FP32") for name in self.order)

    def check(self, table: pa.Table) -> None:
        """Check that rows have the columns; raises TrainingFailed(INVALID_DATA)."""
        require(table, [each.name for each in self.numbers], [each.name for each in self.categories])

    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """What fills, centres and scales the numbers, each [1, numbers]."""
        rows = [[each.fill, each.center, each.scale] for each in self.numbers]
        fill, center, scale = np.array(rows, np.float32).reshape(-1, 3).T.reshape(3, 1, -1)
        return fill, center, scale

    def matrix(self, table: pa.Table) -> NDArray[np.float32]:
        """Make the matrix of rows."""
        result = np.zeros((table.num_rows, self.width), np.float32)
        if self.numbers:
            fill, center, scale = self.constants()
            raw = np.stack([numbers_of(table, each.name) for each in self.numbers], axis=1)
            with np.errstate(over="ignore"):
                result[:, : len(self.numbers)] = (np.where(np.isfinite(raw), raw, fill) - center) / scale
        first = len(self.numbers)
        for each in self.categories:
            texts = texts_in(table, each.name)
            filled = pc.if_else(pc.equal(texts, ""), each.fill, texts)
            places = pc.index_in(filled, value_set=pa.array(each.categories, pa.large_string()))
            place = np.asarray(pc.fill_null(places, -1).to_numpy(zero_copy_only=False), np.int64)
            (known,) = np.nonzero(place >= 0)
            result[known, first + place[known]] = 1
            first += len(each.categories)
        return result

    def served(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        """Give rows as a version takes them: its inputs by name."""
        if self.input_name:
            return {self.input_name: np.stack([numbers_of(table, name) for name in self.order], axis=1)}
        texts = {each.name for each in self.categories}
        return {
            name: (
                texts_in(table, name).to_numpy(zero_copy_only=False) if name in texts else numbers_of(table, name)
            ).reshape(-1, 1)
            for name in self.order
        }

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            tuple(content["order"]),
            tuple(Number(**each) for each in content["numbers"]),
            tuple(Category(**{**each, "categories": tuple(each["categories"])}) for each in content["categories"]),
        )


def _number(name: str, values: NDArray[np.float32], *, scaled: bool) -> Number:
    finite = values[np.isfinite(values)].astype(np.float64)
    fill = float(np.float32(np.median(finite)))
    if not scaled:
        return Number(name, fill)
    filled = np.where(np.isfinite(values), values.astype(np.float64), fill)
    center, scale = float(filled.mean()), float(filled.std())
    usable = 0 < np.float32(scale) < np.inf  # equal numbers have none
    return Number(name, fill, float(np.float32(center)), float(np.float32(scale)) if usable else 1.0)


def _category(name: str, texts: pa.ChunkedArray, max_categories: int) -> Category:
    counted = pc.value_counts(texts.filter(pc.not_equal(texts, ""))).to_pylist()
    frequent = sorted(counted, key=lambda each: (-each["counts"], each["values"]))[:max_categories]
    return Category(name, frequent[0]["values"], tuple(sorted(each["values"] for each in frequent)))
