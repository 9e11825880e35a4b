"""The copied versions that the registry is measured with: it takes them for its own."""

from __future__ import annotations

from pathlib import Path

import penstock
from benchmarks.catalogue import LARGE, Size, fill, version_name
from examples.models.small import identity
from tests.services import CloneDatabase, running_registry

SIZE = Size(models=2, versions_each=60, versions_of_large=70)


def test_a_registry_lists_finds_promotes_and_goes_on_from_copied_versions(
    clone_database: CloneDatabase, tmp_path: Path
) -> None:
    url = clone_database("registry")
    with running_registry(url, tmp_path) as service, penstock.Client(registry=service.address) as client:
        registry = client.registry
        registry.register_version(LARGE, version_name(1), identity(), framework="onnx")
        fill(url, SIZE)
        assert [model.name for model in registry.list_models()] == [LARGE, "model-001", "model-002"]
        numbers = [version.deployment_number for version in registry.list_versions(LARGE, page_size=20)]
        assert numbers == list(range(70, 0, -1))
        assert registry.resolve(LARGE, "latest").version == version_name(70)
        [staged] = registry.list_versions("model-002", stage="staging")
        assert registry.promote("model-002", staged.version, "production", approved_by="ada", note="it is measured")
        assert registry.resolve("model-002").files == registry.get_version(LARGE, version_name(1)).files
        assert registry.register_version(LARGE, "9.0.0", identity(), framework="onnx").deployment_number == 71
