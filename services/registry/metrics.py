"""What the registry counts, beside what every service counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class RegistryMetrics:
    """The registry's own metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.uploaded_bytes = Counter("penstock_registry_uploaded_bytes", "Bytes of files stored.", registry=registry)
        self.validations = Counter(
            "penstock_registry_validations", "Validations concluded.", ["result"], registry=registry
        )
        self.versions = Gauge("penstock_registry_versions", "Versions in each state.", ["state"], registry=registry)
        self.garbage = GarbageMetrics(registry)


class GarbageMetrics:
    """What garbage collection counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.purged_versions = Counter(
            "penstock_registry_purged_versions", "Deleted versions whose files went for good.", registry=registry
        )
        self.deleted_blobs = Counter(
            "penstock_registry_deleted_blobs", "Blobs deleted since nothing named them.", registry=registry
        )
        self.deleted_bytes = Counter("penstock_registry_deleted_bytes", "Their bytes.", registry=registry)
        self.waiting_bytes = Gauge(
            "penstock_registry_condemned_bytes", "Bytes of blobs that wait to be deleted.", registry=registry
        )
        self.finished_time = Gauge(
            "penstock_registry_garbage_collected_timestamp_seconds",
            "When a round of garbage collection last ended here.",
            registry=registry,
        )
