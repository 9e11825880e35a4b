"""Metric families as JSON, and what those of several processes are together.

What all workers count together is the same whichever of them is asked, and taken from one; all else is each process's
own, and added up, or the highest of them where a sum would say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import Metric

from services.common.metrics import is_of_all_workers

Document = dict[str, Any]
HIGHEST = frozenset({"nv_model_load_duration_secs", "process_start_time_seconds", "process_max_fds", "python_info"})
HIGHEST_SUFFIXES = ("_age_seconds", "_age_ms", "_age_us")


def to_documents(metrics: Iterable[Metric]) -> list[Document]:
    """Write families."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "of_all": is_of_all_workers(metric),
            # When a count began says nothing about a sum of several.
            "samples": [
                (sample.name, sample.labels, sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ],
        }
        for metric in metrics
    ]


def merged(processes: Sequence[Sequence[Document]]) -> Iterator[Metric]:
    """Make one family of each that several processes told of, in the order of their first telling."""
    families: dict[str, list[Document]] = {}
    for documents in processes:
        for document in documents:
            families.setdefault(document["name"], []).append(document)
    yield from (_merge(name, documents) for name, documents in families.items())


def _merge(name: str, documents: Sequence[Document]) -> Metric:
    first = documents[0]
    family = Metric(name, first["documentation"], "unknown")
    family.type = first["type"]  # which a counter without a suffix has, and Metric would refuse
    highest = name in HIGHEST or name.endswith(HIGHEST_SUFFIXES)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for document in documents[:1] if first["of_all"] else documents:
        for sample, labels, value in document["samples"]:
            key = (sample, tuple(labels.items()))
            known = values.get(key)
            if known is None:
                values[key] = value
            else:
                values[key] = max(known, value) if highest else known + value
    for (sample, pairs), value in values.items():
        family.add_sample(sample, dict(pairs), value)
    return family
