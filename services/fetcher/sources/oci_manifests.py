"""What manifests of OCI registries say, as far as it is a model (OCI image specification 1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from services.fetcher.faults import FileTooLarge, Forbidden, ModelNotFound, UnsupportedFramework
from services.fetcher.models import RemoteFile
from services.fetcher.sources.file_names import check_distinct, fault_of, shown
from services.fetcher.sources.source import MAX_FILES, is_archive

MAX_TEXT_BYTES: Final = 2_000
MAX_ANNOTATIONS: Final = 256
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_EMPTY: Final = "application/vnd.oci.empty.v1+json"
_TITLE: Final = "org.opencontainers.image.title"
_FILEPATH: Final = "org.cncf.model.filepath"
_UNPACK: Final = "io.deis.oras.content.unpack"
_SUFFIXES: Final = (
    (re.compile(r"(?:^|[/.+-])(?:tar[.+]gzip|tgz|gzip)$"), ".tar.gz"),
    (re.compile(r"(?:^|[/.+-])tar$"), ".tar"),
    (re.compile(r"(?:^|[/.+-])zip$"), ".zip"),
)
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")

Text = Annotated[str, Field(max_length=256)]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Platform(_Said):
    """What a manifest of an index is for."""

    os: Text = ""
    architecture: Text = ""


class Descriptor(_Said):
    """Some bytes, by their digest."""

    media_type: Text = Field("", alias="mediaType")
    digest: Text
    size: int = Field(ge=0, lt=2**60)
    artifact_type: Text = Field("", alias="artifactType")
    annotations: dict[str, str] | None = None
    platform: Platform | None = None

    @property
    def sha256(self) -> str:
        """Its digest in hex; raises UnsupportedFramework where it is another than SHA-256."""
        found = _DIGEST.fullmatch(self.digest)
        if found is None:
            sentence = f"the digest {shown(self.digest)} is none by SHA-256, by which alone bytes are known here"
            raise UnsupportedFramework(f"{sentence}: push it with sha256 digests")
        return found[1]


Descriptors = Annotated[list[Descriptor], Field(fail_fast=True)]


class Manifest(_Said):
    """A manifest, or an index of some."""

    media_type: Text = Field("", alias="mediaType")
    artifact_type: Text = Field("", alias="artifactType")
    layers: Descriptors | None = None
    manifests: Descriptors | None = None
    annotations: dict[str, str] | None = None

    @classmethod
    def parse(cls, body: bytes, content_type: str) -> Manifest:
        """Read one.

        Raises:
            UnsupportedFramework: it is none, or another than it is said to be.
            FileTooLarge: it has more layers or manifests than a version has files, or more annotations than any needs.
        """
        try:
            said = from_json(body)
        except ValueError as error:
            raise UnsupportedFramework("that is no manifest of OCI (no JSON)") from error
        # Of each thing that is wrong pydantic keeps a record many times as large as the thing.
        _check_counts(said)
        try:
            manifest = cls.model_validate(said)
        except ValidationError as error:
            where = ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"]))
            raise UnsupportedFramework(f"that is no manifest of OCI ({shown(where) or 'no object'})") from error
        kind = content_type.partition(";")[0].strip()
        # Of one that can be read in two ways, the digest would stand for either.
        twofold = manifest.layers is not None and manifest.manifests is not None
        if twofold or (manifest.media_type and kind and manifest.media_type != kind):
            raise UnsupportedFramework("its manifest says to be two things at once")
        kind = manifest.media_type or kind
        if kind not in (MANIFESTS if manifest.manifests is None else INDEXES):
            raise UnsupportedFramework(f"{shown(kind) or 'what lies there'} is no manifest of an OCI artifact")
        return manifest

    def chosen(self, platform: Platform) -> Descriptor:
        """Give the manifest of an index that is the model; raises UnsupportedFramework where none or several may be."""
        found = [each for each in self.manifests or () if each.media_type in MANIFESTS and not _about_another(each)]
        fits = [each for each in found if each.platform is None] or [
            each
            for each in found
            if each.platform and (each.platform.os, each.platform.architecture) == (platform.os, platform.architecture)
        ]
        only = found if len(found) == 1 else fits
        if len(only) != 1:
            sentence = f"the index has {len(found):,} manifests, of which {len(only):,} fit this machine"
            raise UnsupportedFramework(f"{sentence}: name the one that is wanted by its digest (name@sha256:…)")
        return only[0]

    def files(self, locate: str) -> tuple[tuple[RemoteFile, ...], bool]:
        """Give the files of a manifest, and whether the only one is an archive of them; `locate` goes before a digest.

        Raises:
            UnsupportedFramework: its layers are not the files of a model.
            Forbidden: one names a path that leads elsewhere.
            RegistrationRefused: two names are one on some file system.
        """
        layers = [layer for layer in self.layers or () if layer.media_type != _EMPTY]
        if not layers:
            raise ModelNotFound("its manifest names no files")
        files, unpack = [], False
        for layer in layers:
            path, packed = _path_of(layer, self.artifact_type)
            if packed and len(layers) > 1:
                sentence = f"the artifact has {len(layers):,} layers, and {shown(path)} is an archive among them"
                raise UnsupportedFramework(f"{sentence}: push the files one by one, or all of them in one archive")
            unpack = packed or (len(layers) == 1 and is_archive(path))
            locator = f"{locate}@{layer.digest}"
            files.append(RemoteFile(path, locator, "", layer.size, layer.sha256))
        check_distinct(file.path for file in files)
        return tuple(files), unpack

    def metadata(self) -> dict[str, Any]:
        """Give what its annotations say of the model: the registry's Metadata as JSON."""
        said = {
            "licence": self.said("licenses"),
            "description": self.said("description"),
            "source_version": self.said("version"),
        }
        fields = {name: value for name, value in said.items() if value}
        return {"fields": fields} if fields else {}

    def said(self, name: str) -> str:
        """Give an annotation of those that OCI knows, without what cannot be shown; '' where it is not there."""
        text = (self.annotations or {}).get(f"org.opencontainers.image.{name}", "")
        plain = "".join(letter for letter in text if letter.isprintable())
        return plain.encode()[:MAX_TEXT_BYTES].decode(errors="ignore").strip()


def _check_counts(said: object) -> None:
    """See that no list of a document and no annotations are longer than a manifest's need; raises FileTooLarge."""
    if not isinstance(said, dict):
        return
    bearers = [said]
    for name in ("layers", "manifests"):
        listed = said.get(name)
        if isinstance(listed, list):
            if len(listed) > MAX_FILES:
                raise FileTooLarge(f"a manifest has {len(listed):,} {name}; at most {MAX_FILES:,} are read")
            bearers += [each for each in listed if isinstance(each, dict)]
    most = max((len(noted) for each in bearers if isinstance(noted := each.get("annotations"), dict)), default=0)
    if most > MAX_ANNOTATIONS:
        raise FileTooLarge(f"the manifest has {most:,} annotations of one thing; at most {MAX_ANNOTATIONS:,} are read")


def _about_another(descriptor: Descriptor) -> bool:
    """Whether a manifest of an index is about another of it, such as how that was built."""
    return "vnd.docker.reference.type" in (descriptor.annotations or {})


def _path_of(layer: Descriptor, artifact_type: str) -> tuple[str, bool]:
    """Give the path of a layer's file, and whether it is an archive by what its manifest says, not by its name."""
    said: Mapping[str, str] = layer.annotations or {}
    suffix = next((suffix for form, suffix in _SUFFIXES if form.search(layer.media_type)), "")
    raw = said.get(_FILEPATH, "") if layer.media_type.endswith(".raw") else ""
    path = said.get(_TITLE, "") or raw
    if path and (fault := fault_of(path)):
        raise Forbidden(f"{shown(path)} can be no file of a version: {fault}")
    if said.get(_UNPACK) == "true":
        # oras packs a folder as tar+gzip, and gives it the folder's name.
        return f"{path or 'model'}{'' if is_archive(path) else suffix or '.tar.gz'}", True
    if path:
        return path, False
    if not suffix:
        sentence = f"a layer of the type {shown(layer.media_type)} says no name for its file ({_TITLE})"
        kind = f" in an artifact of the type {shown(artifact_type)}" if artifact_type else ""
        raise UnsupportedFramework(f"{sentence}{kind}: push it with oras, which does")
    return f"model{suffix}", True
