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
