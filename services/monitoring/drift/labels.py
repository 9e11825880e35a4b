"""What the bins of a feature are called."""

from __future__ import annotations

from itertools import pairwise

from services.monitoring.profiles.models import FeatureReference


def labels_of(reference: FeatureReference) -> list[str]:
    """Name a feature's bins, in the order of its counts: value bins, missing, other."""
    values = list(reference.categories) if reference.categories else _spans(reference.edges)
    values += [f"bin {number + 1}" for number in range(len(values), len(reference.counts) - 2)]
    return [*values[: max(len(reference.counts) - 2, 0)], "missing", "other"]


def _spans(edges: tuple[float, ...]) -> list[str]:
    """A value on an edge lies in the lower bin."""
    if not edges:
        return ["any value"]
    texts = [f"{edge:.6g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *between, f"above {texts[-1]}"]
