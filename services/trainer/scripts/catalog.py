"""Scripts as callers see them, and as runs use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from services.common.blobs import BlobReader, BlobStore
from services.common.errors import InvalidArgument, NotFound
from services.common.jobs import JobConnection
from services.trainer.datasets.models import reference_of
from services.trainer.faults import TrainingFailed
from services.trainer.paging import page_of_versions
from services.trainer.recipes.catalogue import SCRIPT
from services.trainer.recipes.script_package import ScriptPackage, sent_in
from services.trainer.recipes.search import Search
from services.trainer.scripts.models import Script
from services.trainer.scripts.store import ScriptStore
from services.trainer.task import RunFolder

_NAMED: Final = "script"


class Scripts:
    """Versions of scripts."""

    def __init__(self, store: ScriptStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    def get(self, name: str, version: int) -> Script:
        """Read a version, 0: the newest; raises NotFound (SCRIPT_NOT_FOUND, SCRIPT_VERSION_NOT_FOUND)."""
        return self._store.get(name, version)

    def page(self, name: str, *, page_size: int, page_token: str) -> tuple[list[Script], str]:
        """List all versions of one, the newest first; or the newest version of each, by name."""
        return page_of_versions("scripts", self._store.page, name, page_size=page_size, page_token=page_token)

    def download(self, name: str, version: int, offset: int) -> tuple[Script, Iterator[bytes]]:
        """Give a version's bytes from one on; raises as `get`, and OutOfRange (OFFSET_OUT_OF_RANGE)."""
        script = self._store.get(name, version)
        return script, _closing(self._blobs.open(script.sha256, offset=offset))

    def delete(self, name: str, version: int) -> None:
        """Delete a version; raises NotFound, and FailedPrecondition (SCRIPT_IN_USE)."""
        self._store.delete(name, version)

    def pinned(self, recipe: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Have parameters name the version of the script that is meant; gives them and NAME/VERSION, '' for none.

        Raises:
            NotFound: SCRIPT_NOT_FOUND, SCRIPT_VERSION_NOT_FOUND.
            InvalidArgument: INVALID_NAME; INVALID_PARAMETERS: a search is over scripts.
        """
        if recipe == Search.name and parameters.get("recipe") == SCRIPT:
            if _NAMED in parameters["space"]:
                sentence = "a search is over what one script is told; name the script among its `parameters`"
                raise InvalidArgument.field("parameters.space.script", sentence, reason="INVALID_PARAMETERS")
            inner, found = self._pinned("parameters.parameters", parameters.get("parameters", {}))
            return {**parameters, "parameters": inner} if found else dict(parameters), found
        return self._pinned("parameters", parameters) if recipe == SCRIPT else (dict(parameters), "")

    def _pinned(self, field: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        if not parameters.get(_NAMED):
            return dict(parameters), ""
        script = self._store.get(*reference_of(f"{field}.{_NAMED}", parameters[_NAMED]))
        return {**parameters, _NAMED: script.reference}, script.reference

    def refer(self, connection: JobConnection, reference: str) -> None:
        """Keep a version from being deleted while the transaction makes a run of it; raises NotFound."""
        self._store.hold(connection, *reference_of(_NAMED, reference))

    def bring(self, reference: str, folder: RunFolder, check: Callable[[], None]) -> None:
        """Write a version into a run's folder; `check` is called between its pieces, and may raise.

        Raises:
            TrainingFailed: it is not there any more (INVALID_PARAMETERS).
        """
        try:
            script = self._store.get(*reference_of(_NAMED, reference))
        except NotFound as error:
            raise TrainingFailed(error.message, reason="INVALID_PARAMETERS") from error
        with sent_in(folder).open("wb") as out, self._blobs.open(script.sha256) as reader:
            for chunk in reader:
                check()
                out.write(chunk)
        contents = script.contents
        ScriptPackage(script.reference, contents.entry, contents.packed, script.sha256).write(folder)


def _closing(reader: BlobReader) -> Iterator[bytes]:
    with reader:
        yield from reader
