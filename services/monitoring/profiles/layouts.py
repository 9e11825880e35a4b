"""Which columns of live data are wanted, and by which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from services.monitoring.profiles.models import FeatureKind, Reference
from services.monitoring.profiles.reference import MAX_FEATURES, PREDICTION

EMBEDDING_DIMENSIONS = 64
"""A tensor with so many columns is one embedding, unless a reference knows its columns."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of a reference.

    Attributes:
        features: in the reference's order, by which columns without names are matched.
        known: the same, to look up.
        predictions: the outputs.
        embeddings: of those of both that are embeddings, how long they are.
        outcome: the label is the one output, whatever else the model gives.
        open: there is no reference: all names are wanted, up to one more than a profile may have.
        columns: what those of the only input were declared to be called; none where that is not known, or where the
            reference has none of these names: then its own are matched by their order.
    """

    features: tuple[str, ...]
    known: frozenset[str]
    predictions: frozenset[str]
    embeddings: Mapping[str, int]
    outcome: bool
    open: bool = False
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, reference: Reference, columns: Sequence[str] = ()) -> Layout:
        """Take the names of a reference, and of the columns that were declared of a version's only input."""
        found = reference.features.values()
        features = tuple(feature.name for feature in found if not feature.is_prediction)
        predictions = frozenset(feature.name for feature in found if feature.is_prediction)
        embeddings = {feature.name: feature.dimensions for feature in found if feature.kind is FeatureKind.EMBEDDING}
        outcome = predictions == {PREDICTION} and PREDICTION not in embeddings
        known = frozenset(features)
        declared = tuple(columns) if known.intersection(columns) else ()
        return cls(features, known, predictions, embeddings, outcome=outcome, columns=declared)

    @classmethod
    def named_by(cls, reference: Reference, columns: Sequence[str] = ()) -> Layout:
        """Want all names, as where there is no reference; a tensor's columns take those of this one where they fit."""
        return replace(cls.of(reference, columns), predictions=frozenset(), embeddings={}, outcome=False, open=True)

    def leaves_out(self, name: str) -> bool:
        """Say whether a profile was made without a column of the input: it is not wanted, and yet no stranger."""
        return not self.open and name in self.columns and name not in self.known

    def wants(self, name: str, count: int, *, prediction: bool) -> bool:
        """Say whether a column is wanted where there are `count` already."""
        if self.open:
            return count <= MAX_FEATURES
        return name in (self.predictions if prediction else self.known)

    def by_outcome(self, message: Payload) -> bool:
        """Say whether a prediction is counted by its outcome: one is wanted, and there are several, or scores."""
        if not self.outcome:
            return False
        if message.WhichOneof("kind") == "fields":
            return len(message.fields.fields) != 1
        tensors = message.tensors.tensors
        return len(tensors) != 1 or (len(tensors[0].shape) > 1 and tensors[0].shape[-1] > 1)


ANY_NAMES = Layout((), frozenset(), frozenset(), {}, outcome=False, open=True)
"""Where there is no reference yet."""
