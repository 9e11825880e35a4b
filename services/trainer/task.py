"""What a recipe is to do, what it tells, and what it leaves behind: the same wherever it runs.

A run has a folder, and everything goes through it:

    task.json                 the Task
    data/train.parquet        rows to learn from
    data/validation.parquet   rows to stop and to choose by; may have none
    data/test.parquet         rows to judge by, never learned from; may have none
    parent/                   the parent version's files: of a finetune, an optimisation, a quantisation
    script/                   a script from the blob store, as it was uploaded
    checkpoint/               what a rescued run goes on from; the recipe writes it
    out/                      what it leaves: the version's files below artifact/, and outcome.json

What it tells meanwhile is lines of JSON, see `Event`; what it prints is the run's log.
"""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

MAX_METRICS: Final = 256
MAX_NAME_CHARS: Final = 128
UNKEPT: Final = re.compile("[\0\ud800-\udfff]")
"""Characters that no database and no message takes: NUL, and halves of surrogate pairs, which JSON can spell."""


class TrainingType(enum.StrEnum):
    """What a run begins with."""

    INITIAL = "INITIAL"
    RETRAIN = "RETRAIN"
    FINETUNE = "FINETUNE"


class Part(enum.StrEnum):
    """A part of the rows."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Task:
    """What a recipe is to do.

    Attributes:
        run_id: the run's.
        model: whose version is made.
        recipe: its name, such as `sklearn`.
        parameters: what it was told; its defaults are its own.
        type: what it begins with.
        attempt: 1, 2, 3 …
        time_limit_s: how long the process may take.
        memory_limit_bytes: what it may use.
        resources: what it asks of where it is trained, see `executing/resources.py`.
    """

    run_id: str
    model: str
    recipe: str
    parameters: Mapping[str, Any]
    type: TrainingType = TrainingType.INITIAL
    attempt: int = 1
    time_limit_s: float = 3_600.0
    memory_limit_bytes: int = 4 * 1024**3
    resources: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        columns = json.loads(path.read_text())
        return cls(**{**columns, "type": TrainingType(columns["type"])})


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's folder."""

    path: Path

    @property
    def task(self) -> Path:
        """What is to be done."""
        return self.path / "task.json"

    @property
    def parent(self) -> Path:
        """The parent version's files."""
        return self.path / "parent"

    @property
    def script(self) -> Path:
        """A script from the blob store, see `recipes/script_package.py`."""
        return self.path / "script"

    @property
    def checkpoint(self) -> Path:
        """What a rescued run goes on from."""
        return self.path / "checkpoint"

    @property
    def out(self) -> Path:
        """What the recipe leaves."""
        return self.path / "out"

    @property
    def artifact(self) -> Path:
        """The version's files."""
        return self.out / "artifact"

    @property
    def outcome(self) -> Path:
        """The Outcome."""
        return self.out / "outcome.json"

    def rows(self, part: Part) -> Path:
        """Where a part's rows are."""
        return self.path / "data" / f"{part}.parquet"

    def groups(self, part: Part) -> Path:
        """Where the keys of a part's rows are, by which they belong together, in a column; none: none do."""
        return self.path / "groups" / f"{part}.parquet"

    def make(self) -> None:
        """Make its folders."""
        for folder in (
            self.path / "data",
            self.path / "groups",
            self.parent,
            self.script,
            self.checkpoint,
            self.artifact,
        ):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Column:
    """A column that the version takes, in the order in which it takes them; `datatype` as tensors have it."""

    name: str
    datatype: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a recipe made.

    Attributes:
        framework: a name of the registry's Framework without its prefix: ONNX, TENSORFLOW.
        label: the label's column.
        features: the columns that it takes.
        input_name: the name of the only input, where the columns are those of one matrix [-1, n]; '': each column is an
            input of its own, [-1, 1].
        metrics: finite numbers by part and name.
        task_type: `binary-classification`, `classification` or `regression`.
        classes: of a classifier, in the order of its probabilities.
        environment: python, platform and each library by name, with its version.
        code_sha256: lowercase hex, of the recipe's code, its parameters and the environment.
        metadata: more to keep with the version; small.
        notes: sentences for whoever looks at the run.
    """

    framework: str
    label: str = ""
    features: Sequence[Column] = ()
    input_name: str = ""
    metrics: Mapping[Part, Mapping[str, float]] = field(default_factory=dict)
    task_type: str = ""
    classes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    code_sha256: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """Read what `write` wrote, which came from a process that is not trusted; raises ValueError, TypeError."""
        metrics = {Part(part): checked_metrics(values) for part, values in columns.get("metrics", {}).items()}
        features = tuple(Column(str(each["name"]), str(each["datatype"])) for each in columns.get("features", ()))
        said = {**columns, "metrics": metrics, "features": features}
        for name in ("classes", "notes"):
            said[name] = tuple(str(each) for each in columns.get(name, ()))
        said["environment"] = {str(name): str(version) for name, version in columns.get("environment", {}).items()}
        return cls(**said)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a recipe tells of one step: an epoch, a trial. `total`: how many there will be; 0: nobody knows."""

    number: int
    metrics: Mapping[str, float]
    total: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """Bytes that a recipe printed."""

    chunk: bytes


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """The folder `checkpoint` holds what a rescued run can go on from; it is kept before the recipe goes on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Flush:
    """What was told before is kept when this comes back: where it came from, it is forgotten then."""


Event = Epoch | Log | CheckpointWritten | Flush
"""What a recipe tells while it runs."""


class Stopping(Protocol):
    """How an executor hears that a run is to end; a `JobRun` is one."""

    def check(self) -> None:
        """Go on, or raise Stopped."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep, and raise Stopped as soon as the run is to end."""
        ...

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have a callback called once when the run is to end."""
        ...

    def forget(self, callback: Callable[[], None]) -> None:
        """Take a callback back."""
        ...


class Executor(Protocol):
    """Where recipes run. A new one is one file of `executing/`."""

    @property
    def name(self) -> str:
        """LOCAL, RAY, KUBERNETES, REMOTE."""
        ...

    def execute(self, task: Task, folder: RunFolder, tell: Callable[[Event], None], stopping: Stopping) -> Outcome:
        """Run a task to its end in a folder that is made and filled; what it tells goes to `tell`, in order, from one
        thread at a time.

        Called again for the same run after a crash, it goes on with what still runs, or begins anew from the
        checkpoint.

        Raises:
            TrainingFailed: the recipe did not do it; see `faults` for the reasons.
            Stopped: the run is to end; nothing of it runs any more.
        """
        ...


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Bound what a recipe tells: 256 finite numbers with names of 128 characters; raises ValueError, TypeError.

    A name has none of the characters that cannot be kept, see `UNKEPT`.
    """
    if len(metrics) > MAX_METRICS:
        raise ValueError(f"{len(metrics)} metrics; {MAX_METRICS} at most")
    checked = {str(name): float(value) for name, value in metrics.items()}
    for name, value in checked.items():
        if not name or len(name) > MAX_NAME_CHARS or UNKEPT.search(name) or not math.isfinite(value):
            raise ValueError(
                f"the metric {name[:MAX_NAME_CHARS]!r} is {value}; finite numbers with short names are kept"
            )
    return checked
