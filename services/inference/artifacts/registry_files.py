"""Model files, as the registry streams them."""

from __future__ import annotations

from pathlib import Path

from penstock import Client
from penstock import errors as sdk
from services.common import errors
from services.inference.models import ArtifactFile, ResolvedVersion

# What a caller of a prediction should hear when its model's file cannot be had.
_MEANINGS: dict[type[sdk.PenstockError], type[errors.DomainError]] = {
    sdk.DataLoss: errors.DataLoss,
    sdk.NotFound: errors.FailedPrecondition,
    sdk.Unauthenticated: errors.FailedPrecondition,
    sdk.PermissionDenied: errors.FailedPrecondition,
}


class RegistryFiles:
    """Downloads files; breaks are resumed, and what arrives is verified."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, version: ResolvedVersion, file: ArtifactFile, path: Path) -> None:
        """Write one file of a version to `path`.

        Raises:
            Unavailable: the registry stayed away (REGISTRY_UNAVAILABLE).
            DataLoss: its bytes do not match their digest.
            FailedPrecondition: it has no such file, or this service may not read it.
        """
        try:
            self._client.registry.download(version.model, version.version, path, path=file.path)
        except sdk.PenstockError as error:
            meaning = next((_MEANINGS[cls] for cls in type(error).__mro__ if cls in _MEANINGS), errors.Unavailable)
            reason = "REGISTRY_UNAVAILABLE" if meaning is errors.Unavailable else error.reason
            sentence = f"the file {file.path!r} of {version.model} {version.version} cannot be had: {error}"
            raise meaning(sentence, reason=reason) from error
