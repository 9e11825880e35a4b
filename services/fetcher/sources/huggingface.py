"""Models of Hugging Face's Hub, at a commit: a Transformers bundle, ONNX graphs, a SavedModel or a .keras file."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from services.common.errors import DomainError, InvalidArgument
from services.fetcher.faults import FileTooLarge, NetworkError
from services.fetcher.models import Plan, Reference, RemoteFile
from services.fetcher.sources.bundles import CONFIG, DEFAULT, Form, Layout, laid_out, upwards, within
from services.fetcher.sources.cards import Texts, card_of, document, generates, modules_of
from services.fetcher.sources.file_names import MAX_WARNINGS, check_distinct, fault_of, told_of
from services.fetcher.sources.http_files import HttpFlow, opened
from services.fetcher.sources.hub import Hub, read
from services.fetcher.sources.source import MAX_FILES, Found, Stopping, Variant, model_name

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

MAX_TEXT_BYTES: Final = 1024 * 1024
MAX_TEXTS_BYTES: Final = 4 * 1024 * 1024
MAX_REVISION_CHARS: Final = 256
MAX_VARIANTS: Final = 64
"""As many are shown; any can be named."""
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KINDS: Final = frozenset(
    {"api", "datasets", "spaces", "kernels", "models", "buckets", "collections", "papers", "huggingface.co", "hf.co"}
)
"""What a name begins with that is no model's."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model's place on a Hub: `repository` as org/name or name, `revision` and `folder` '' for the default."""

    repository: str
    revision: str = ""
    folder: str = ""


class HuggingFaceSource:
    """`org/name`, `org/name@revision`, `org/name/folder@revision`, hf:// and it, or the URL of its page."""

    name = "huggingface"
    reference_form = "org/name"
    has_revisions = True
    disabled_reason = ""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def check(self, reference: Reference) -> None:
        """See `Source.check`."""
        self._place(reference)
        if reference.sha256:
            sentence = "a repository has many files, whose digests the Hub names; leave it out"
            raise InvalidArgument.field("source.sha256", sentence, reason="INVALID_REFERENCE")
        self.host(reference)

    def host(self, reference: Reference) -> str:  # noqa: ARG002 - the protocol's
        """See `Source.host`."""
        return self._hub.host

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        """Look at a repository at a revision: what is fetched of it, and what its card and its small files say."""
        place = self._place(reference)
        info = self._hub.model(place.repository, place.revision, stopping)
        if not _COMMIT.fullmatch(info.sha or ""):
            raise NetworkError(f"{self._hub.host} names no commit of {place.repository}")
        files, left_out = _believed(info.siblings or ())
        layout = laid_out(files.keys(), place.folder, place.repository)
        chosen, refusal = _chosen(layout, reference.variant)
        _check(chosen, layout.root, place.repository)
        # Of a repository with 20,000 files a few are fetched.
        remote = _Files(lambda path: self._remote(place.repository, info.sha or "", files[path]), files.keys())
        if info.gated:
            self._hub.check_access(remote[chosen.main].locator, stopping, repository=place.repository)
        texts, unread = self._texts(place.repository, layout, remote, stopping)
        page = f"{self._hub.endpoint}/{place.repository}"
        card = card_of(info, texts, framework=layout.framework, page=page)
        unserved = _unserved(generates(info, texts.config), layout, chosen, place.repository)
        variants = tuple(
            Variant(form.name, _within(layout.root, form, remote), form.precision)
            for form in (chosen, *layout.forms)[: 1 + MAX_VARIANTS]
        )
        return Found(
            Plan(
                info.sha or "",
                variants[0].files,
                framework=layout.framework,
                metadata=_with_variant(card.metadata, layout, chosen),
                canonical="/".join(filter(None, (place.repository, place.folder))),
            ),
            model_name(place.repository),
            tuple(filter(None, (*_said(refusal), unserved, *layout.warnings, *unread, *card.warnings, *left_out)))[
                :MAX_WARNINGS
            ],
            variants[1:],
            card.licence,
            layout.has_default,
            refusal,
            unserved,
        )

    def open(
        self, file: RemoteFile, offset: int, stopping: Stopping, *, end: int | None = None
    ) -> AbstractContextManager[HttpFlow]:
        """Open a file as it is at its commit, which never changes: what keeps it for the Hub has ETags of its own."""
        get = partial(self._hub.get, repository=self._hub.repository_of(file.locator))
        return opened(get, file.locator, replace(file, tag=""), offset, stopping, end=end)

    def _remote(self, repository: str, commit: str, sibling: RepoSibling) -> RemoteFile:
        """Describe a file. Of a large one the Hub knows the digest; others are told by their Git object's id."""
        large = sibling.lfs
        sha256 = large.sha256 if large is not None and _SHA256.fullmatch(large.sha256) else ""
        size_bytes = large.size if large is not None else sibling.size
        path = sibling.rfilename
        tag = f"{commit}-{sibling.blob_id or path}"
        return RemoteFile(path, self._hub.url(repository, commit, path), tag, size_bytes, sha256, ranges=True)

    def _texts(
        self, repository: str, layout: Layout, files: Mapping[str, RemoteFile], stopping: Stopping
    ) -> tuple[Texts, tuple[str, ...]]:
        """Read the small files that say what the model is, 4 MiB in all at the most."""
        warnings: list[str] = []
        left = MAX_TEXTS_BYTES

        def read_json(name: str, kind: type) -> Any:
            nonlocal left
            # A graph's config may lie above it; a bundle has its own.
            places = (f"{folder}/{name}" if folder else name for folder in upwards(layout.root))
            file = next((files[path] for path in places if path in files), None)
            if file is None or left <= 0:
                return kind()
            most = min(left, MAX_TEXT_BYTES)
            if (file.size_bytes or 0) > most:
                warnings.append(f"{name} has more than {most:,} bytes, and is not read")
                return kind()
            with self._hub.get(file.locator, {}, stopping, repository=repository) as answer:
                content = read(answer, most, name)
            left -= len(content)
            found = document(content)
            if not isinstance(found, kind):
                warnings.append(f"{name} is no JSON {'object' if kind is dict else 'list'}, and is not believed")
                return kind()
            return found

        config = read_json(CONFIG, dict)
        if layout.framework != "TRANSFORMERS":
            return Texts(config), tuple(warnings)
        modules = modules_of(read_json("modules.json", list))
        pooling = next((path for path in layout.forms[0].paths if path.endswith("_Pooling/config.json")), "")
        return Texts(
            config,
            read_json("tokenizer_config.json", dict),
            read_json("sentence_bert_config.json", dict),
            read_json("/".join(pooling.split("/")[-2:]), dict) if pooling else {},
            modules,
        ), tuple(warnings)

    def _place(self, reference: Reference) -> Place:
        """Read a reference; raises InvalidArgument (INVALID_REFERENCE)."""
        text = reference.reference
        page = f"{self._hub.endpoint}/"
        place = _page(text.removeprefix(page)) if text.startswith(page) else _words(text.removeprefix("hf://"))
        if place is None or not _is_place(place):
            sentence = f"write org/name, org/name@revision or org/name/folder, or the URL of its page at {page}"
            raise InvalidArgument.field("source.reference", sentence, reason="INVALID_REFERENCE")
        if reference.revision and place.revision not in ("", reference.revision):
            sentence = f"the reference says {place.revision!r} already"
            raise InvalidArgument.field("source.revision", sentence, reason="INVALID_REFERENCE")
        return replace(place, revision=reference.revision or place.revision)


def _words(text: str) -> Place:
    """Read org/name/folder@revision."""
    path, _, revision = text.partition("@")
    parts = path.split("/")
    return Place("/".join(parts[:2]), revision, "/".join(parts[2:]))


def _page(text: str) -> Place | None:
    """Read what follows the Hub's name in the URL of a page: org/name, org/name/tree/revision/folder."""
    if "?" in text or "#" in text:
        return None
    parts = text.strip("/").split("/")
    if "tree" not in parts[1:3]:
        return Place("/".join(parts)) if len(parts) <= 2 else None
    tree = parts.index("tree", 1)
    revision, *folder = map(unquote, parts[tree + 1 :] or [""])
    return Place("/".join(parts[:tree]), revision, "/".join(folder))


def _is_place(place: Place) -> bool:
    names = place.repository.split("/")
    named = all(_NAME.fullmatch(name) and "--" not in name and ".." not in name for name in names)
    revision = place.revision
    return (
        named
        and names[0] not in _KINDS
        and not place.repository.endswith(".git")
        and (not place.folder or not fault_of(place.folder))
        and (not revision or (not fault_of(revision) and len(revision) <= MAX_REVISION_CHARS))
    )


def _believed(siblings: Iterable[RepoSibling]) -> tuple[dict[str, RepoSibling], tuple[str, ...]]:
    """Give the files whose names can be believed, and say which are left out."""
    files: dict[str, RepoSibling] = {}
    left_out: list[tuple[str, str]] = []
    for sibling in siblings:
        path = sibling.rfilename
        if fault := fault_of(path):
            left_out.append((path, fault))
        elif sibling.size == 0:
            left_out.append((path, "it is empty"))
        else:
            files[path] = sibling
    return files, told_of(left_out)


class _Files(Mapping[str, RemoteFile]):
    """The files of a repository by their paths, each described once it is asked for."""

    def __init__(self, describe: Callable[[str], RemoteFile], paths: Collection[str]) -> None:
        self._describe = cache(describe)
        self._paths = paths

    def __getitem__(self, path: str) -> RemoteFile:
        return self._describe(path)

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def _chosen(layout: Layout, variant: str) -> tuple[Form, DomainError | None]:
    """Choose a form; where none is named and none is the default, give the first, and what a fetch raises."""
    try:
        return layout.form(variant), None
    except DomainError as refusal:
        if variant:
            raise
        return layout.forms[0], refusal


def _said(refusal: DomainError | None) -> tuple[str, ...]:
    return () if refusal is None else (f"nothing is fetched until a variant is named: {refusal.message}",)


def _unserved(makes_texts: str, layout: Layout, form: Form, repository: str) -> str:
    """Say why a generating model is of no use here; an encoder alone may be."""
    stem = PurePosixPath(form.main).stem
    if not makes_texts or layout.framework != "TRANSFORMERS" or ("encoder" in stem and "decoder" not in stem):
        return ""
    return (
        f"{repository} makes texts ({makes_texts}), which no bundle does here: Ollama serves such models (penstock "
        "model register NAME --ollama MODEL --mode chat); of bundles those that embed or classify are served. Where it "
        "is one, name its framework (--framework)"
    )


def _check(form: Form, root: str, repository: str) -> None:
    """See that the registry would take the files; raises FileTooLarge, RegistrationRefused."""
    if len(form.paths) > MAX_FILES:
        raise FileTooLarge(f"{form.name} of {repository} has {len(form.paths):,} files; {MAX_FILES:,} are allowed")
    check_distinct(within(path, root) for path in form.paths)


def _within(root: str, form: Form, files: Mapping[str, RemoteFile]) -> tuple[RemoteFile, ...]:
    """Give the files of a form by their paths within the version."""
    return tuple(replace(files[path], path=within(path, root)) for path in form.paths[:MAX_FILES])


def _with_variant(metadata: dict[str, Any], layout: Layout, form: Form) -> dict[str, Any]:
    """Name the graph of a bundle, as serving holds it to the file; its own name is said of no default."""
    names = (f"model_{form.name}", form.name)
    if layout.framework != "TRANSFORMERS" or form.name == DEFAULT or PurePosixPath(form.main).stem not in names:
        return metadata
    return {**metadata, "fields": {**metadata.get("fields", {}), "variant": form.name}}
