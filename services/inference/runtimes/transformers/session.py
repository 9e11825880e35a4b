"""Transformers bundles: texts are tokenised, run through their ONNX graph, and read as the task says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from services.common.text_tasks import TASK_TYPES, Task
from services.inference.models import ModelFailed, ResolvedVersion, Signature
from services.inference.runtimes.onnx_runtime import OnnxRuntime, OnnxSession
from services.inference.runtimes.runtime import Artifact
from services.inference.runtimes.transformers.batches import Batch, Batcher
from services.inference.runtimes.transformers.bundle import Bundle, refused
from services.inference.runtimes.transformers.head import Asked, Head
from services.inference.runtimes.transformers.heads import head_of
from services.inference.runtimes.transformers.tasks import find_task, served_signature
from services.inference.runtimes.transformers.tokenizing import TextTokenizer
from services.inference.tensors import Tensor

WINDOW: Final = 256
"""Texts tokenised at once: enough to sort by length, and little enough that a big request keeps its memory small."""
# What a class must end with to do a task; the others give logits too, of another meaning.
ARCHITECTURES: Final = {
    Task.TEXT_CLASSIFICATION: "ForSequenceClassification",
    Task.ZERO_SHOT: "ForSequenceClassification",
    Task.RERANKING: "ForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "ForTokenClassification",
}


class TransformersRuntime:
    """Opens Transformers bundles; the graph is ONNX Runtime's, with its settings.

    `max_batch_tokens` bounds what runs at once, padding included: long texts run in smaller batches than short ones.
    """

    def __init__(self, onnx: OnnxRuntime, *, max_batch_tokens: int) -> None:
        self._onnx = onnx
        self._max_batch_tokens = max_batch_tokens

    def load(self, artifact: Artifact) -> TransformersSession:
        """Open a bundle; raises FailedPrecondition(MODEL_LOAD_FAILED) with what is wrong with it."""
        version = artifact.version
        bundle = Bundle.read(artifact.folder, version.metadata)
        _check_variant(version)
        graph = self._onnx.load(artifact)
        try:
            return self._over(graph, bundle, artifact)
        except BaseException:
            graph.close()
            raise

    def _over(self, graph: OnnxSession, bundle: Bundle, artifact: Artifact) -> TransformersSession:
        version, signature = artifact.version, graph.signature
        head = head_of(_task(version, signature, bundle), bundle, signature)
        batcher = Batcher(signature, max_tokens=self._max_batch_tokens, alone=not version.rows_independent)
        tokenizer = TextTokenizer(artifact.folder, bundle, batcher.fixed_tokens or bundle.max_tokens)
        batcher.pad_id = tokenizer.pad_id
        return TransformersSession(graph, tokenizer, batcher, head, served_signature(version.metadata, signature))


class _Run:
    """A run under way: when it began, and whether it is to end."""

    __slots__ = ("began", "ended")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ended = False


class TransformersSession:
    """One open bundle."""

    def __init__(
        self, graph: OnnxSession, tokenizer: TextTokenizer, batcher: Batcher, head: Head, signature: Signature
    ) -> None:
        self.signature = signature
        self.size_bytes = graph.size_bytes
        self._graph = graph
        self._tokenizer = tokenizer
        self._batcher = batcher
        self._head = head
        # Each step on it is one atomic operation: no lock needed.
        self._runs: dict[int, _Run] = {}

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run the model once; see `runtime.Session.run`."""
        run = _Run()
        self._runs[id(run)] = run
        try:
            answers = self._answer(self._head.ask(inputs), run)
        finally:
            del self._runs[id(run)]
        return {name: answers[name] for name in outputs} if outputs else answers

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End long runs, at their next batch at the latest; see `runtime.Session.terminate`."""
        before = time.monotonic() - longer_than_s
        late = [run for run in list(self._runs.values()) if run.began <= before]
        for run in late:
            run.ended = True
        self._graph.terminate(longer_than_s=longer_than_s)
        return len(late)

    def close(self) -> None:
        """Drop the graph: its memory goes with the last reference."""
        self._graph.close()

    def _answer(self, asked: Asked, run: _Run) -> dict[str, Tensor]:
        sequences, head = asked.sequences, self._head
        rows: Tensor | None = None
        for begin in range(0, len(sequences), WINDOW):
            encodings = self._tokenizer.encode(sequences[begin : begin + WINDOW], offsets=head.needs_offsets)
            for batch in self._batcher.split(encodings, begin):
                if run.ended:
                    raise ModelFailed("the run took too long and was ended", reason="RUN_TERMINATED")
                values = head.read(self._computed(batch), batch, asked)
                if rows is None:
                    rows = np.empty((len(sequences), *values.shape[1:]), values.dtype)
                rows[batch.rows] = values
        return head.answer(head.blank() if rows is None else rows, asked)

    def _computed(self, batch: Batch) -> Tensor:
        name = self._head.output
        values = self._graph.run(batch.feed, (name,))[name]
        if values.ndim != self._head.rank or len(values) != len(batch.rows):
            raise ModelFailed(f"the model gave {name} of shape {list(values.shape)} for {len(batch.rows)} texts")
        return values


def _task(version: ResolvedVersion, graph: Signature, bundle: Bundle) -> Task:
    task = find_task(version.metadata, graph)
    if task is None:
        said = f"task type {version.metadata.task_type!r} is not served"
        if not version.metadata.task_type:
            said = "nothing says what this bundle is for"
        raise refused(f"{said}; register it with the task type {TASK_TYPES}")
    ending, named = ARCHITECTURES.get(task, ""), bundle.architecture
    if named and not named.endswith(ending):
        raise refused(
            f"config.json says {named}, which does not do {task.value}; register a model that ends in {ending}, or "
            f"with another task type ({TASK_TYPES})"
        )
    return task


def _check_variant(version: ResolvedVersion) -> None:
    """Refuse to serve another graph than the registry judged, where the metadata field `variant` names one."""
    variant = version.metadata.fields.get("variant")
    if variant in (None, ""):
        return
    graphs = [file.path for file in version.files if file.path.lower().endswith(".onnx")]
    wanted = {f"{folder}model_{variant}.onnx" for folder in ("", "onnx/")} | {str(variant), f"{variant}.onnx"}
    if len(graphs) != 1 or not wanted & {graphs[0], graphs[0].rpartition("/")[2]}:
        raise refused(
            f"the metadata field `variant` is {variant!r}, and the registry judged another graph; register that graph "
            f"as the only .onnx file beside the tokenizer (here are {', '.join(sorted(graphs)[:8])})"
        )
