"""Token classification: the entities in a text, as Hugging Face's `simple` aggregation groups them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from services.inference.runtimes.transformers.batches import Batch
from services.inference.runtimes.transformers.bundle import Bundle
from services.inference.runtimes.transformers.head import Asked, Floats, objects, softmax
from services.inference.runtimes.transformers.tasks import TEXT
from services.inference.runtimes.transformers.tokenizing import texts_of
from services.inference.tensors import Tensor

OUTSIDE = "O"
SCORE_DIGITS = 6


class EntityHead:
    """Neighbouring tokens of one class are one entity, a token marked B- begins another, and class O is none."""

    needs_offsets = True
    rank = 3

    def __init__(self, bundle: Bundle, output: str) -> None:
        self.output = output
        self._labels = bundle.labels

    def ask(self, inputs: Mapping[str, Tensor]) -> Asked:
        """Take each text by itself."""
        return Asked(texts_of(TEXT, inputs[TEXT]))

    def blank(self) -> Tensor:
        """Give no list."""
        return objects([])

    def read(self, values: Tensor, batch: Batch, asked: Asked) -> Tensor:
        """Write each text's entities: entity, score (the tokens' mean), word, start and end (characters)."""
        shares = softmax(values)
        return objects(
            [
                json.dumps(
                    list(self._entities(shares[place], encoding, asked.sequences[row])), ensure_ascii=False
                ).encode()
                for place, (row, encoding) in enumerate(zip(batch.rows.tolist(), batch.encodings, strict=True))
            ]
        )

    def answer(self, rows: Tensor, asked: Asked) -> dict[str, Tensor]:  # noqa: ARG002 - as in the protocol
        """Give the lists."""
        return {"entities": rows}

    def _entities(self, shares: Floats, encoding: Any, text: Any) -> Iterator[dict[str, Any]]:
        best = shares.argmax(axis=-1).tolist()
        group: list[tuple[float, int, int]] = []
        kind = OUTSIDE
        for place, ((start, end), special) in enumerate(
            zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        ):
            if special:
                continue
            label = self._labels.get(best[place], f"LABEL_{best[place]}")
            begins, named = label.startswith("B-"), label[2:] if label[:2] in ("B-", "I-") else label
            if group and (begins or named != kind):
                yield _entity(kind, group, text)
                group = []
            kind = named
            if named != OUTSIDE:
                group.append((float(shares[place, best[place]]), start, end))
        if group:
            yield _entity(kind, group, text)


def _entity(kind: str, group: list[tuple[float, int, int]], text: str) -> dict[str, Any]:
    start, end = group[0][1], group[-1][2]
    score = round(float(np.mean([share for share, _, _ in group])), SCORE_DIGITS)
    return {"entity": kind, "score": score, "word": text[start:end], "start": start, "end": end}
