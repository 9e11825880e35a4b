"""Runs a model on generated rows to learn whether a row's answer depends on the rows beside it.

Only a model whose rows are independent may be batched. (A dynamically quantised network, for one, scales its
activations by the extremes of the whole batch: the same text gets another answer beside other texts.)
Imported by the child process alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, default_rng  # by name: NumPy imports it on first use, too late in a sandbox

from .report import FailureReason, Refusal, Signature, TensorSpec, out_of_memory

Array: TypeAlias = npt.NDArray[Any]
Run: TypeAlias = Callable[[dict[str, Array]], dict[str, Array]]
"""Runs a model once: every output by name for every input by name; raises NotRunnable where it does not take them."""

_DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
# The largest difference allowed, as a share of the tensor's largest value: the same sums are taken in another
# order for another batch size, and no more than that. Integers, booleans and strings must be equal.
_TOLERANCES = {np.dtype(np.float16): 1e-2, np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-9}

# What an open dimension beside the rows may be: a sequence, nothing, a small image, a large one.
_OPEN_SIZES = (8, 1, 32, 224)
# Integers are often places in a table of unknown length; 0 and 1 stand in every table, a mask or a kind included.
_SAFE_CEILING, _WIDER_CEILINGS = 2, (1_000, 100, 10)
_WORDS = ("a", "b", "the quick brown fox", "", "42", "naïve")
_ROWS, _DRAWS = 3, 3
# Rows of unlike size, or a scale that is taken over the batch would hardly show.
_ROW_SCALES = np.array([1.0, 4.0, 0.25])
_SEED = 20_261_121
# EACCES of landlock and EPERM of seccomp, as the C library words them; they come last in what TensorFlow says.
_DENIED = re.compile("Permission denied|Operation not permitted")


class NotRunnable(Exception):
    """The model did not take the generated rows, which says nothing against it; `exhausted`: for want of memory."""

    def __init__(self, message: str, *, exhausted: bool = False) -> None:
        super().__init__(message)
        self.exhausted = exhausted


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether rows are independent, the sentence that says why not, and the outputs' ranks where one was seen."""

    rows_independent: bool
    reason: str
    ranks: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How rows are drawn: the size of open dimensions, and the ceiling (exclusive) of each integer input."""

    open_size: int
    ceilings: dict[str, int]


def try_rows(run: Run, signature: Signature, unshaped: frozenset[str]) -> Verdict:
    """Run batches of two and three generated rows and compare them with each row alone.

    `unshaped` names the outputs for which the file declares no shape: what they return is taken as it comes.
    Raises Refusal: VALIDATOR_OUT_OF_MEMORY where even the smallest rows ask for more memory than is allowed,
    FORBIDDEN_OPERATOR where the model reaches for what the sandbox denies.
    """
    trial = _Trial(_without_denials(run), signature)
    try:
        recipe = trial.find_recipe()
    except NotRunnable as error:
        return Verdict(False, str(error), {})
    ranks = {name: array.ndim for name, array in trial.run(trial.draw(recipe, 1, _SEED)).items()}
    fixed = _fixed_first_dimension(signature, unshaped)
    if fixed:
        return Verdict(False, fixed, ranks)
    try:
        difference = next(trial.differences(recipe), "")
    except NotRunnable as error:
        difference = f"the model takes a row alone but not several: {error}"
    return Verdict(not difference, difference, ranks)


def _without_denials(run: Run) -> Run:
    """Refuse a model that is denied something when it runs: it computes, or it reaches for more than a model may."""

    def checked(feeds: dict[str, Array]) -> dict[str, Array]:
        try:
            return run(feeds)
        except NotRunnable as error:
            if not _denied(error):
                raise
            message = (
                f"the model reaches for what the sandbox denies to every model when it runs ({error}); export it "
                "without what reads or writes files, connects or starts programs"
            )
            raise Refusal(FailureReason.FORBIDDEN_OPERATOR, message) from None

    return checked


def _denied(error: BaseException | None) -> bool:
    """Whether it began with what the kernel denied: runtimes tell it as an error of their own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, PermissionError) or _DENIED.search(str(error)):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def with_seen_ranks(signature: Signature, unshaped: frozenset[str], verdict: Verdict) -> Signature:
    """Where neither file nor runtime knows an output's shape, take the rank that it had when it ran."""

    def seen(spec: TensorSpec) -> TensorSpec:
        if spec.name not in unshaped or spec.shape:
            return spec
        rank = verdict.ranks.get(spec.name)
        if rank is None:
            message = f"output {spec.name!r} declares no shape, and none could be seen: {verdict.reason}"
            raise Refusal(FailureReason.INVALID_MODEL, message)
        return replace(spec, shape=(-1,) * rank)

    return replace(signature, outputs=tuple(seen(spec) for spec in signature.outputs))


def _fixed_first_dimension(signature: Signature, unshaped: frozenset[str]) -> str:
    if not signature.inputs:
        return "the model has no inputs, hence no rows"
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.shape[:1] != (-1,) and not (kind == "output" and spec.name in unshaped):
                return f"{kind} {spec.name!r} has shape {list(spec.shape)}, whose first dimension is not open"
    return ""


class _Trial:
    """One model under trial."""

    def __init__(self, run: Run, signature: Signature) -> None:
        self.run = run
        self._signature = signature

    def find_recipe(self) -> _Recipe:
        """Find rows that the model takes, as varied as it takes them; raises NotRunnable with the last refusal."""
        for spec in self._signature.inputs:
            if spec.datatype != "BYTES" and spec.datatype not in _DTYPES:
                raise NotRunnable(f"input {spec.name!r} is {spec.datatype}, for which no trial rows can be made")
        integers = [
            spec.name
            for spec in self._signature.inputs
            if spec.datatype in _DTYPES and np.issubdtype(_DTYPES[spec.datatype], np.integer)
        ]
        recipe = self._first_that_runs(dict.fromkeys(integers, _SAFE_CEILING))
        for name in integers:
            for ceiling in _WIDER_CEILINGS:
                wider = _Recipe(recipe.open_size, recipe.ceilings | {name: ceiling})
                if self._runs(wider):
                    recipe = wider
                    break
        return recipe

    def _first_that_runs(self, ceilings: dict[str, int]) -> _Recipe:
        refusal = ""
        for open_size in _OPEN_SIZES:
            recipe = _Recipe(open_size, ceilings)
            try:
                self.run(self.draw(recipe, 1, _SEED))
            except NotRunnable as error:
                refusal = refusal or str(error)
                if open_size == _OPEN_SIZES[0] and error.exhausted:
                    raise out_of_memory(str(error)) from None
            else:
                return recipe
        raise NotRunnable(f"the model does not run on generated rows: {refusal}")

    def _runs(self, recipe: _Recipe) -> bool:
        try:
            self.run(self.draw(recipe, 1, _SEED))
        except NotRunnable:
            return False
        return True

    def differences(self, recipe: _Recipe) -> Iterator[str]:
        """Say each way in which a batch was seen to differ from its rows alone; one kind a draw."""
        for draw in range(_DRAWS):
            feeds = self.draw(recipe, _ROWS, _SEED + draw)
            alone = [self.run({name: rows[row : row + 1] for name, rows in feeds.items()}) for row in range(_ROWS)]
            for count in (2, _ROWS):
                together = self.run({name: rows[:count] for name, rows in feeds.items()})
                yield from self._compare(alone[:count], together)

    def _compare(self, alone: list[dict[str, Array]], together: dict[str, Array]) -> Iterator[str]:
        count = len(alone)
        for name, batch in together.items():
            if batch.shape[:1] != (count,) or any(single[name].shape[:1] != (1,) for single in alone):
                yield (
                    f"output {name!r} has shape {list(batch.shape)} for {count} rows and "
                    f"{list(alone[0][name].shape)} for one: its first dimension does not count the rows"
                )
                continue
            for row, single in enumerate(alone):
                if not same(single[name], batch[row : row + 1]):
                    yield (
                        f"output {name!r} answers a row differently in a batch of {count} than alone, so rows "
                        "would change each other's answers"
                    )
                    break

    def draw(self, recipe: _Recipe, rows: int, seed: int) -> dict[str, Array]:
        """Generate `rows` rows an input: the same seed, the same rows."""
        generator = default_rng(seed)
        return {
            spec.name: _draw(
                generator, spec, _shape(spec, rows, recipe.open_size), recipe.ceilings.get(spec.name, _SAFE_CEILING)
            )
            for spec in self._signature.inputs
        }


def _shape(spec: TensorSpec, rows: int, open_size: int) -> tuple[int, ...]:
    sizes = [open_size if size == -1 else size for size in spec.shape]
    if spec.shape[:1] == (-1,):
        sizes[0] = rows
    return tuple(sizes)


def _draw(generator: Generator, spec: TensorSpec, shape: tuple[int, ...], ceiling: int) -> Array:
    if spec.datatype == "BYTES":
        return np.asarray(generator.choice(_WORDS, shape), dtype=object)
    dtype = np.dtype(_DTYPES[spec.datatype])
    if dtype.kind in "biu":
        return np.asarray(generator.integers(0, ceiling, shape).astype(dtype))
    values = np.asarray(generator.standard_normal(shape))
    if spec.shape[:1] == (-1,):
        values *= _ROW_SCALES[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    return values.astype(dtype)


def same(one: Array, other: Array) -> bool:
    """Whether two answers agree: exactly, or for floats within the tolerance; NaN agrees with NaN."""
    if one.shape != other.shape:
        return False
    tolerance = _TOLERANCES.get(one.dtype)
    if tolerance is None:
        return bool(np.array_equal(one, other))
    finite = np.abs(one[np.isfinite(one)])
    scale = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(one, other, rtol=0.0, atol=tolerance * scale, equal_nan=True))
