"""Zero-shot classification: does the text entail "This example is sport."? (Yin, Hay & Roth, 2019, §5.)"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from services.common.errors import InvalidArgument
from services.inference.runtimes.transformers.batches import Batch
from services.inference.runtimes.transformers.bundle import Bundle, refused
from services.inference.runtimes.transformers.head import Asked, Floats, check_rows, objects, softmax
from services.inference.runtimes.transformers.tasks import LABELS, TEXT
from services.inference.runtimes.transformers.tokenizing import texts_of
from services.inference.tensors import Tensor

MAX_LABELS = 100
SCORE_DIGITS = 6


class ZeroShotHead:
    """Each row brings its own labels, so that rows of unlike callers can run together.

    The scores of a row's labels add up to 1; with `multi_label` each label stands alone, against its contradiction.
    """

    needs_offsets = False
    rank = 2

    def __init__(self, bundle: Bundle, output: str, width: int) -> None:
        self.output = output
        self._template = bundle.hypothesis_template
        self._multi_label = bundle.flag("multi_label", default=False)
        self._entailment = _class_of("entail", bundle, width)
        self._contradiction = _class_of("contradict", bundle, width)

    def ask(self, inputs: Mapping[str, Tensor]) -> Asked:
        """Make a pair of each row's text with each of its labels."""
        check_rows(inputs, TEXT, LABELS)
        texts, written = texts_of(TEXT, inputs[TEXT]), texts_of(LABELS, inputs[LABELS])
        labels = [_labels(row, text) for row, text in enumerate(written)]
        pairs = [
            (text, self._template.replace("{}", label))
            for text, wanted in zip(texts, labels, strict=True)
            for label in wanted
        ]
        return Asked(pairs, labels)

    def blank(self) -> Tensor:
        """Give no logits."""
        return np.zeros((0, 2), np.float32)

    def read(self, values: Tensor, batch: Batch, asked: Asked) -> Tensor:  # noqa: ARG002 - as in the protocol
        """Keep the logits that count."""
        return np.asarray(values[:, [self._contradiction, self._entailment]], np.float32)

    def answer(self, rows: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Give the best label, its score, and all of them as JSON, best first."""
        best: list[tuple[str, float]] = []
        rankings: list[bytes] = []
        begin = 0
        for labels in asked.labels:
            scores = self._scores(rows[begin : begin + len(labels)])
            begin += len(labels)
            ranked = [(labels[place], float(scores[place])) for place in np.argsort(-scores, kind="stable").tolist()]
            best.append(ranked[0])
            listed = [{"label": label, "score": round(score, SCORE_DIGITS)} for label, score in ranked]
            rankings.append(json.dumps(listed, ensure_ascii=False).encode())
        return {
            "label": objects([label.encode() for label, _ in best]),
            "score": np.array([score for _, score in best], np.float32),
            "ranking": objects(rankings),
        }

    def _scores(self, logits: Floats) -> Floats:
        return softmax(logits)[:, 1] if self._multi_label else softmax(logits[:, 1])


def _class_of(beginning: str, bundle: Bundle, width: int) -> int:
    """Find the class by its name; label2id and id2label say the same."""
    found = [number for number, label in bundle.labels.items() if label.lower().startswith(beginning)]
    if len(found) != 1 or (width and found[0] >= width):
        names = ", ".join(bundle.labels.values()) or "none"
        raise refused(
            f"zero-shot classification needs one class named {beginning}… in config.json's id2label; it names {names}"
        )
    return found[0]


def _labels(row: int, text: str) -> list[str]:
    """Read a row's labels: a JSON list of strings, or names with commas between them."""
    labels = None
    if text.lstrip().startswith("["):
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError):
            labels = None
    else:
        labels = [label.strip() for label in text.split(",")]
    if (
        not isinstance(labels, list)
        or not 1 <= len(labels) <= MAX_LABELS
        or not all(isinstance(label, str) and label for label in labels)
    ):
        sentence = f"row {row} is no list of labels; send a JSON list of 1 to {MAX_LABELS} strings, none empty"
        raise InvalidArgument.field(LABELS, sentence, reason="INVALID_LABELS")
    return labels
