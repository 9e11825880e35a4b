"""`penstock predict`: ask a model."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, json_value
from penstock.cli.formats import say_count, say_ms, say_number, say_share, say_time
from penstock.cli.options import Json, Model, NoColor, Token, Url, Version
from penstock.cli.output import Column, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.api.features.v1.feature_lookups_pb2 import FeatureLookup
    from penstock.inference import Prediction

MAX_INPUT_BYTES = 64 * 1024 * 1024
SHOWN_ROWS = 100
MAX_SHOWN_VALUES = 8
"""Of a list; of a longer one so many as make it clear what it is."""
SHOWN_VALUES = 4


def predict(
    model: Model,
    features: Annotated[
        str,
        typer.Argument(
            metavar="JSON | @FILE | -",
            help="The features by name, as a JSON object, or a list of such rows. @FILE reads a file, - stdin, the "
            "default without --entity.",
            show_default=False,
        ),
    ] = "",
    entity: Annotated[
        list[str] | None,
        typer.Option(
            "--entity",
            metavar="ID",
            help="The entity that the row is about; again for each row. The features that are left out are read from "
            "the version's feature view.",
            show_default=False,
        ),
    ] = None,
    version: Version = None,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Who it is for; kept with the event.")] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Kept with the event.")] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Your own id of it. Default: the inference id.")
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Run a model on one row or many, and record the prediction; --json has long outputs whole."""
    output = Output(as_json=as_json, no_color=no_color)
    inputs = parse_features(read_argument(features or "-")) if features or not entity else None
    with connect(Service.INFERENCE, url, token) as client:
        prediction = client.inference.predict(
            model,
            inputs,
            entity_ids=entity or (),
            version=version or "",
            user_id=user,
            session_id=session,
            request_id=request_id,
        )
    columns, rows = _rows(prediction)
    answered = Text.assemble((f"{prediction.model} {prediction.version}", "bold"))
    answered.append(f"  {prediction.framework}, {say_ms(prediction.latency_ms)}, inference {prediction.inference_id}")
    output.answer(_document(prediction), output.table(columns, rows[:SHOWN_ROWS], empty="no rows"), answered)
    if prediction.lookup:
        output.note(_lookup_words(prediction.lookup))
    if len(rows) > SHOWN_ROWS:
        output.note(f"{SHOWN_ROWS} of {len(rows):,} rows shown; --json gives all")
    output.note(f"later: penstock feedback {prediction.inference_id} --outcome …")


def read_argument(text: str, what: str = "JSON") -> str:
    """Read what an argument means: itself, the file after an @, or stdin for a dash. `what` is read, errors say."""
    if text == "-":
        if sys.stdin.isatty():
            sys.stderr.write(f"reading {what} from the terminal; Ctrl-D ends it\n")
        content = sys.stdin.read(MAX_INPUT_BYTES + 1)
    elif text.startswith("@"):
        try:
            with Path(text[1:]).open(encoding="utf-8") as file:
                content = file.read(MAX_INPUT_BYTES + 1)
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"{text[1:]} is no text in UTF-8") from error
    else:
        return text
    if len(content) > MAX_INPUT_BYTES:
        raise typer.BadParameter(f"the input is over {MAX_INPUT_BYTES} bytes; send it in parts")
    return content


def parse_features(text: str) -> dict[str, Any]:
    """Read named features. A list of objects is rows: it becomes one list a column. NaN and Infinity are taken.

    Raises:
        BadParameter: it is no JSON, neither an object nor a list of objects, or the rows' names differ.
    """
    try:
        features = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the features are no JSON: {error}") from error
    if isinstance(features, dict):
        return features
    if not isinstance(features, list) or not features or not all(isinstance(row, dict) for row in features):
        raise typer.BadParameter('the features must be a JSON object such as {"X": [1, 2]}, or a list of such rows')
    names = list(features[0])
    for number, row in enumerate(features):
        if row.keys() != set(names):
            raise typer.BadParameter(f"row {number} has the names {sorted(row)}, the first row {sorted(names)}")
    return {name: [row[name] for row in features] for name in names}


def _lookup_words(lookup: FeatureLookup) -> str:
    known = [each for each in lookup.event_times_us if each]
    age = f", the oldest of {say_time(datetime.fromtimestamp(min(known) / 1e6, UTC))}" if known else ""
    instead = f"; in place of {say_count(lookup.substituted_count, 'value')} others" if lookup.substituted_count else ""
    more = f" and {len(lookup.names) - MAX_SHOWN_VALUES:,} more" if len(lookup.names) > MAX_SHOWN_VALUES else ""
    names = ", ".join(lookup.names[:MAX_SHOWN_VALUES]) + more
    return f"from {lookup.view}@{lookup.version}: {names}{age}{instead}"


def _document(prediction: Prediction) -> dict[str, Any]:
    return {
        "inference_id": prediction.inference_id,
        "model": prediction.model,
        "version": prediction.version,
        "framework": prediction.framework,
        "latency_ms": prediction.latency_ms,
        "confidences": list(prediction.confidences),
        "lookup": document_of(prediction.lookup) if prediction.lookup else None,
        "outputs": {name: json_value(array.tolist()) for name, array in prediction.outputs.items()},
    }


def _rows(prediction: Prediction) -> tuple[list[Column], list[list[str | Text]]]:
    """Lay out the outputs row by row; an output without rows stands in the first."""
    columns = [
        Column("row", "right"),
        *(Column(_title(*output), give="wrap", named=True) for output in prediction.outputs.items()),
    ]
    values = [array.tolist() if array.ndim else [array.item()] for array in prediction.outputs.values()]
    count = max((len(rows) for rows in values), default=0)
    confident = len(prediction.confidences) == count
    if confident:
        columns.append(Column("confidence", "right"))
    table: list[list[str | Text]] = []
    for number in range(count):
        cells: list[str | Text] = [str(number), *(_cell(rows[number]) if number < len(rows) else "" for rows in values)]
        table.append([*cells, say_share(prediction.confidences[number])] if confident else cells)
    return columns, table


def _title(name: str, array: NDArray[Any]) -> str:
    """Name an output, with the shape of its rows where they are not shown whole."""
    shape = array.shape[1:]
    return f"{name} {list(shape)}" if any(size > MAX_SHOWN_VALUES for size in shape) else name


def _cell(value: Any) -> str:
    if isinstance(value, list):
        shown = value if len(value) <= MAX_SHOWN_VALUES else value[:SHOWN_VALUES]
        more = [f"… {len(value) - len(shown):,} more"] if len(shown) < len(value) else []
        return "[" + ", ".join([*map(_cell, shown), *more]) + "]"
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return say_number(value)
