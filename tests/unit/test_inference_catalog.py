"""The catalog: what a name means, as last heard of the registry."""

from __future__ import annotations

import pytest

from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.inference.following.catalog import Catalog, CatalogVersion
from services.inference.models import ResolvedVersion, Signature

NOTHING = Signature((), ())


def version(
    name: str, number: int, stage: str = "development", *aliases: str, ready: bool = True, deleted: bool = False
) -> CatalogVersion:
    resolved = ResolvedVersion("iris", name, number, "onnx", stage, NOTHING) if ready and not deleted else None
    state = "READY" if ready else "VALIDATING"
    return CatalogVersion("iris", name, number, stage, state, resolved, frozenset(aliases), deleted)


def catalog(*versions: CatalogVersion) -> Catalog:
    catalog = Catalog()
    catalog.replace(versions)
    return catalog


def test_before_the_registry_is_heard_nothing_is_unknown_yet() -> None:
    with pytest.raises(Unavailable) as caught:
        Catalog().resolve("iris", "")
    assert caught.value.reason == "REGISTRY_NOT_HEARD"
    with pytest.raises(Unavailable):
        Catalog().check()


def test_an_unknown_model_is_said_as_existing_clients_expect() -> None:
    with pytest.raises(NotFound) as caught:
        catalog().resolve("iris", "")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert "Request for unknown model" in caught.value.message


def test_an_unknown_version_is_said() -> None:
    with pytest.raises(NotFound) as caught:
        catalog(version("1.0.0", 1)).resolve("iris", "9")
    assert caught.value.reason == "VERSION_NOT_FOUND"
    assert "Request for unknown model" in caught.value.message


def test_a_model_without_a_ready_version_is_said() -> None:
    with pytest.raises(NotFound) as caught:
        catalog(version("1.0.0", 1, ready=False)).resolve("iris", "")
    assert caught.value.reason == "NO_VERSION_READY"


def test_an_exact_version_that_is_not_ready_is_said() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        catalog(version("1.0.0", 1, ready=False)).resolve("iris", "1.0.0")
    assert caught.value.reason == "VERSION_NOT_READY"


def test_a_promotion_taken_in_at_once_never_leaves_the_name_without_a_version() -> None:
    known = catalog(version("1.0.0", 1, "production"), version("2.0.0", 2, "staging"))
    assert known.resolve("iris", "").version == "1.0.0"
    known.update([version("1.0.0", 1, "archived"), version("2.0.0", 2, "production")])
    assert known.resolve("iris", "").version == "2.0.0"
    assert known.resolve("iris", "production").version == "2.0.0"
    assert known.resolve("iris", "1.0.0").stage == "archived"


def test_a_new_snapshot_forgets_what_is_gone() -> None:
    known = catalog(version("1.0.0", 1))
    known.resolve("iris", "")
    known.replace([])
    with pytest.raises(NotFound):
        known.resolve("iris", "")


def test_an_alias_is_followed_where_it_points_now() -> None:
    known = catalog(version("1.0.0", 1, "archived", "blue"), version("2.0.0", 2))
    assert known.resolve("iris", "blue").version == "1.0.0"
    known.update([version("1.0.0", 1, "archived"), version("2.0.0", 2, "development", "blue")])
    assert known.resolve("iris", "blue").version == "2.0.0"
    known.update([version("2.0.0", 2)])
    with pytest.raises(NotFound) as caught:
        known.resolve("iris", "blue")
    assert caught.value.reason == "VERSION_NOT_FOUND"


def test_a_deleted_version_is_gone_at_once_and_its_model_with_the_last_of_them() -> None:
    known = catalog(version("1.0.0", 1), version("2.0.0", 2), version("0.1.0", 3, deleted=True))
    assert set(known.models()["iris"]) == {"1.0.0", "2.0.0"}
    assert known.resolve("iris", "").version == "2.0.0"
    known.update([version("2.0.0", 2, deleted=True)])
    assert known.resolve("iris", "").version == "1.0.0"
    with pytest.raises(NotFound) as caught:
        known.resolve("iris", "2.0.0")
    assert caught.value.reason == "VERSION_NOT_FOUND"
    known.update([version("1.0.0", 1, deleted=True)])
    with pytest.raises(NotFound) as caught:
        known.resolve("iris", "")
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_a_name_that_was_given_again_in_the_same_message_means_the_new_version() -> None:
    known = catalog(version("1.0.0", 1, ready=False))
    known.update([version("1.0.0", 1, ready=False, deleted=True), version("1.0.0", 2)])
    assert known.resolve("iris", "1.0.0").deployment_number == 2
