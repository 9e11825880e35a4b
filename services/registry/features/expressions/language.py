"""The language of expressions: of Python's syntax what stands here, and nothing else; docs/features.md has it.

A text is parsed, never run: each node becomes a step that does whole columns, with its type known beforehand. A text,
its steps and how deep they lie are bounded, and so is the time that any row takes.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.registry.features.expressions import arithmetic, texts
from services.registry.features.expressions.arrays import arrow_type
from services.registry.features.expressions.functions import CLOCKS, FUNCTIONS, PRESERVING, Form
from services.registry.features.models import FeatureType

if TYPE_CHECKING:
    import pyarrow

MAX_CHARS: Final = 1_000
MAX_NODES: Final = 200
MAX_DEPTH: Final = 32
F, N, B = FeatureType.FLOAT64, FeatureType.INT64, FeatureType.BOOL
S, L, T = FeatureType.STRING, FeatureType.FLOAT64_LIST, FeatureType.TIMESTAMP
Arrays = Mapping[str, "pyarrow.Array"]


class Refused(Exception):
    """An expression is not of the language, or its types do not fit; the sentence says where and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of an expression: its type, how it does rows, and, of what is written out, the value itself."""

    kind: FeatureType
    run: Callable[[Rows], pyarrow.Array]
    literal: Any = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to work on: arrays by name, the clocks among them as `event_time()`."""

    count: int
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression whose types fit. `names`: the columns that it needs; `clocks`: the functions of time."""

    kind: FeatureType
    names: frozenset[str]
    clocks: frozenset[str]
    run: Callable[[Rows], pyarrow.Array]


def compiled(text: str, types: Mapping[str, FeatureType]) -> Expression:
    """Read an expression over columns of these types; raises Refused."""
    if len(text) > MAX_CHARS:
        raise Refused(f"it has {len(text):,} characters; {MAX_CHARS:,} are allowed")
    if "\\" in text:
        raise Refused("it has a backslash, which is not part of the language")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise Refused(f"it is no expression{place}: {getattr(error, 'msg', None) or error}") from error
    compiler = _Compiler(types)
    step = compiler.step(tree.body, 1)
    return Expression(step.kind, frozenset(compiler.names), frozenset(compiler.clocks), step.run)


def as_type(step: Step, kind: FeatureType) -> Step | None:
    """Give a step as a type: a whole number is a double where one is wanted; None: it is of another."""
    if step.kind is kind:
        return step
    if step.kind is N and kind is F:
        return Step(F, lambda rows: step.run(rows).cast("float64", safe=False))
    return None


class _Compiler:
    def __init__(self, types: Mapping[str, FeatureType]) -> None:
        self._types = types
        self._nodes = 0
        self.names: set[str] = set()
        self.clocks: set[str] = set()

    def step(self, node: ast.expr, depth: int) -> Step:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise Refused(f"it is too large: {MAX_NODES} parts, {MAX_DEPTH} within each other, are allowed")
        match node:
            case ast.Constant():
                return _constant(node)
            case ast.Name():
                return self._name(node)
            case ast.BinOp():
                return _binary(node, self.step(node.left, depth + 1), self.step(node.right, depth + 1))
            case ast.UnaryOp():
                return _unary(node, self.step(node.operand, depth + 1))
            case ast.BoolOp():
                name = "and_kleene" if isinstance(node.op, ast.And) else "or_kleene"
                return _both(name, [self._truth(each, depth + 1) for each in node.values])
            case ast.Compare():
                return self._compare(node, depth + 1)
            case ast.IfExp():
                return self._choice(node, depth + 1)
            case ast.Call():
                return self._call(node, depth + 1)
        raise Refused(f"{_said(node)} is not part of the language; docs/features.md shows what is")

    def _name(self, node: ast.Name) -> Step:
        name = node.id
        if name not in self._types:
            known = f"; there are {', '.join(self._types)}" if self._types else ""
            hint = f", a function is called as {name}(…)" if name in FUNCTIONS or name in CLOCKS else ""
            raise Refused(f"there is no {name!r}{hint}{known}")
        self.names.add(name)
        return Step(self._types[name], lambda rows: rows.arrays[name])

    def _truth(self, node: ast.expr, depth: int) -> Step:
        step = self.step(node, depth)
        if step.kind is not B:
            raise Refused(f"{_said(node)} is {_a(step.kind)}; a BOOL is wanted")
        return step

    def _compare(self, node: ast.Compare, depth: int) -> Step:
        if isinstance(node.ops[0], ast.In | ast.NotIn):
            return self._membership(node, depth)
        steps = [self.step(each, depth) for each in (node.left, *node.comparators)]
        pairs = zip(node.ops, steps[:-1], steps[1:], strict=True)
        return _both("and_kleene", [_compared(op, left, right) for op, left, right in pairs])

    def _membership(self, node: ast.Compare, depth: int) -> Step:
        (among,) = node.comparators if len(node.comparators) == 1 else (None,)
        if not isinstance(among, ast.Tuple | ast.List) or not among.elts:
            raise Refused('`in` takes values that are written out: city in ("Basel", "Bern")')
        left = self.step(node.left, depth)
        values = [self.step(each, depth) for each in among.elts]
        if any(value.literal is None for value in values):
            raise Refused('`in` takes values that are written out: city in ("Basel", "Bern")')
        found = _both("or_kleene", [_compared(ast.Eq(), left, value) for value in values])
        return found if isinstance(node.ops[0], ast.In) else _arrow(B, "invert", found)

    def _choice(self, node: ast.IfExp, depth: int) -> Step:
        condition = self._truth(node.test, depth)
        then, otherwise = _alike("if … else", [self.step(node.body, depth), self.step(node.orelse, depth)])
        return _arrow(then.kind, "if_else", condition, then, otherwise)

    def _call(self, node: ast.Call, depth: int) -> Step:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise Refused(f"{_said(node)} is not part of the language; a function is called as name(a, b)")
        name = node.func.id
        if name in CLOCKS:
            if node.args:
                raise Refused(f"{name}() takes no arguments")
            self.clocks.add(name)
            return Step(T, lambda rows: rows.arrays[f"{name}()"])
        arguments = [self.step(each, depth) for each in node.args]
        if name in PRESERVING:
            return _preserving(name, arguments)
        if name not in FUNCTIONS:
            raise Refused(f"there is no function {name!r}; there are {', '.join(sorted({*FUNCTIONS, *PRESERVING}))}")
        return _called(name, FUNCTIONS[name], arguments)


def _constant(node: ast.Constant) -> Step:
    value = node.value
    match value:
        case bool():
            kind = B
        case int() if arithmetic.LEAST <= value <= arithmetic.MOST:
            kind = N
        case float() if math.isfinite(value):
            kind = F
        case str():
            kind = S
        case None:
            raise Refused("None is not part of the language; missing_if(condition, value) makes a value missing")
        case _:
            raise Refused(f"{_said(node)} is no number within 64 bits, text, True or False")

    def run(rows: Rows) -> pyarrow.Array:
        import pyarrow

        return pyarrow.repeat(pyarrow.scalar(value, arrow_type(kind)), rows.count)

    return Step(kind, run, value)


def _unary(node: ast.UnaryOp, step: Step) -> Step:
    if isinstance(node.op, ast.Not) and step.kind is B:
        return _arrow(B, "invert", step)
    if isinstance(node.op, ast.USub) and step.kind in (N, F):
        literal = None if step.literal is None else -step.literal
        kernel = arithmetic.ints(arithmetic.negate) if step.kind is N else arithmetic.floats(lambda a: -a)
        return Step(step.kind, lambda rows: kernel(step.run(rows)), literal)
    if isinstance(node.op, ast.UAdd) and step.kind in (N, F):
        return step
    raise Refused(f"{_said(node)}: this cannot be done with {_a(step.kind)}")


def _binary(node: ast.BinOp, left: Step, right: Step) -> Step:
    operation = type(node.op)
    kinds = (left.kind, right.kind)
    if kinds == (S, S) and operation is ast.Add:
        return _made(S, texts.join, left, right)
    if operation in (ast.Add, ast.Sub) and T in kinds and set(kinds) <= {T, N}:
        if kinds == (T, T) and operation is ast.Sub:
            return _made(N, arithmetic.ints(arithmetic.subtract), left, right)
        if kinds == (T, N) or (kinds == (N, T) and operation is ast.Add):
            return _made(T, arithmetic.ints(_WHOLE[operation]), left, right)
    if set(kinds) <= {N, F}:
        if kinds == (N, N) and operation in _WHOLE:
            return _made(N, arithmetic.ints(_WHOLE[operation]), left, right)
        doubles = [each for each in (as_type(left, F), as_type(right, F)) if each]
        if operation in _DOUBLE:
            return _made(F, arithmetic.floats(_DOUBLE[operation]), *doubles)
    raise Refused(f"{_said(node)}: this cannot be done with {_a(left.kind)} and {_a(right.kind)}")


def _compared(operation: ast.cmpop, left: Step, right: Step) -> Step:
    name = _COMPARED.get(type(operation))
    if name is None:
        raise Refused("`is` is not part of the language; is_missing(x) asks whether there is a value")
    left, right = _alike("a comparison", [left, right])
    if left.kind is L or (left.kind is B and name not in ("equal", "not_equal")):
        raise Refused(f"{_a(left.kind)} cannot be compared so")
    return _arrow(B, name, left, right)


def _preserving(name: str, arguments: Sequence[Step]) -> Step:
    if name == "is_missing" and len(arguments) == 1:
        return _arrow(B, "is_null", arguments[0])
    if name == "coalesce" and len(arguments) > 1:
        alike = _alike("coalesce", arguments)
        return _arrow(alike[0].kind, "coalesce", *alike)
    if name == "missing_if" and [each.kind for each in arguments[:1]] == [B] and len(arguments) == 2:
        return _made(arguments[1].kind, _missing_if, *arguments)
    takes = {"is_missing": "(x)", "coalesce": "(a, b, …)", "missing_if": "(condition, x)"}[name]
    raise Refused(f"{name} is called as {name}{takes}")


def _missing_if(condition: pyarrow.Array, array: pyarrow.Array) -> pyarrow.Array:
    import pyarrow
    from pyarrow import compute

    gone = condition.fill_null(False)
    return compute.if_else(gone, pyarrow.nulls(len(array), array.type), array)


def _called(name: str, forms: Sequence[Form], arguments: Sequence[Step]) -> Step:
    for exact in (True, False):
        for form in forms:
            takes = list(form.takes) * (max(2, len(arguments)) if form.variadic else 1)
            if len(takes) != len(arguments):
                continue
            fitted = [
                step if step.kind is kind else None if exact else as_type(step, kind)
                for step, kind in zip(arguments, takes, strict=True)
            ]
            if all(fitted):
                return _applied(name, form, [step for step in fitted if step])
    given = ", ".join(each.kind.value for each in arguments) or "nothing"
    said = " or ".join(f"{name}({', '.join(form.takes)}{', …' * form.variadic})" for form in forms)
    raise Refused(f"{name} was given {given}; it takes {said}")


def _applied(name: str, form: Form, steps: Sequence[Step]) -> Step:
    for place in form.literals:
        value = steps[place].literal
        if value is None or (isinstance(value, int) and value < 0):
            raise Refused(f"{name}: argument {place + 1} is a text or a number from 0 on that is written out")

    def run(rows: Rows) -> pyarrow.Array:
        given = (step.literal if place in form.literals else step.run(rows) for place, step in enumerate(steps))
        return form.kernel(*given)

    return Step(form.gives, run)


def _alike(what: str, steps: Sequence[Step]) -> list[Step]:
    """Give steps of one type, whole numbers as doubles where others are; raises Refused."""
    kinds = {step.kind for step in steps}
    kind = F if kinds == {N, F} else steps[0].kind
    alike = [as_type(step, kind) for step in steps]
    if not all(alike):
        raise Refused(f"{what} takes values of one type; there are {', '.join(sorted(kinds))}")
    return [step for step in alike if step]


def _both(name: str, steps: Sequence[Step]) -> Step:
    found = steps[0]
    for step in steps[1:]:
        found = _arrow(B, name, found, step)
    return found


def _arrow(kind: FeatureType, name: str, *steps: Step) -> Step:
    def run(rows: Rows) -> pyarrow.Array:
        from pyarrow import compute

        return getattr(compute, name)(*(step.run(rows) for step in steps))

    return Step(kind, run)


def _made(kind: FeatureType, kernel: Callable[..., pyarrow.Array], *steps: Step) -> Step:
    return Step(kind, lambda rows: kernel(*(step.run(rows) for step in steps)))


def _a(kind: FeatureType) -> str:
    return f"an {kind.value}" if kind is N else f"a {kind.value}"


def _said(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:59]}…`"


_WHOLE: Final[dict[type, Any]] = {
    ast.Add: arithmetic.add,
    ast.Sub: arithmetic.subtract,
    ast.Mult: arithmetic.multiply,
    ast.FloorDiv: arithmetic.floor_divide,
    ast.Mod: arithmetic.remainder,
}
_DOUBLE: Final[dict[type, Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}
_COMPARED: Final[dict[type, str]] = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
