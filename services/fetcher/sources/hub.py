"""Hugging Face's Hub, asked through its own client, which gets to see no network, no token and no variable of ours.

`huggingface_hub` builds the requests and reads the answers; what lies between is `GuardedHttp`. Its token is `False`
and its client has a transport of our own, so that neither HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE nor a file in
somebody's home decides what is asked, and nothing is written there.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from services.common.errors import DomainError
from services.common.outbox.webhooks import read_retry_after
from services.fetcher.faults import FileTooLarge, ModelNotFound, NetworkError, RateLimited, Unauthorized
from services.fetcher.sources.http import MAX_RETRY_AFTER_S, Answer, GuardedHttp
from services.fetcher.sources.http_files import hurried
from services.fetcher.sources.source import Stopping

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

MAX_SIBLINGS: Final = 20_000
"""Files of a repository that are looked at."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Of what the Hub says of a repository: 20,000 files take some 5 MiB, and 40 MiB of memory to read."""
MAX_VALUES: Final = 200_000
"""Objects and lists in it: 8 MiB of nothing else would take 200 MiB of memory, and seconds."""
TOKEN_SETTING: Final = "PENSTOCK_FETCHER_HF_TOKEN"  # noqa: S105 - a setting's name
_JUDGED: Final = frozenset({401, 403, 404, 429})
"""Statuses that say more on the Hub than elsewhere."""
_ONWARD: Final = frozenset({301, 302, 303, 307, 308})
_SAID: Final = ("id", "sha", "pipeline_tag", "library_name")
_BLOB: Final = re.compile(r"[0-9a-f]{40,64}")
CARD: Final = ("license", "license_name", "language", "base_model", "datasets", "pipeline_tag")
"""What of a card is looked at."""

_ask: ContextVar[Callable[[str], bytes]] = ContextVar("_ask")
"""How whoever called the client asks for a URL."""


class Hub:
    """A Hub at `endpoint`; the token is sent to its origin alone."""

    def __init__(self, http: GuardedHttp, endpoint: str, token: SecretStr | None = None) -> None:
        self._http = http
        self._token = token
        self.endpoint = endpoint.rstrip("/")

    @property
    def host(self) -> str:
        """Its name; raises Forbidden where the setting names what must not be reached."""
        return self._http.endpoint(self.endpoint).host

    def model(self, repository: str, revision: str, stopping: Stopping) -> ModelInfo:
        """Describe a repository at a revision ('': its default branch): commit, card, files with sizes and digests.

        Raises:
            ModelNotFound, Unauthorized, RateLimited, NetworkError: as the Hub answers, or not.
            FileTooLarge: it has more files than are looked at.
        """
        _use_our_client()
        from huggingface_hub import HfApi  # takes half a second, and most fetches are none of the Hub's

        def ask(url: str) -> bytes:
            with self.get(url, {}, stopping, repository=repository, revision=revision) as answer:
                if _origin(answer.url) != _origin(url):
                    raise NetworkError(f"{self.host} sends whoever asks for {repository} elsewhere")
                return read(answer, MAX_ANSWER_BYTES, f"what {self.host} says of {repository}")

        asking = _ask.set(ask)
        try:
            return HfApi(endpoint=self.endpoint, token=False).model_info(
                repository, revision=revision or None, files_metadata=True
            )
        except NetworkError as error:
            sentence = f"{error.message}; where the Hub cannot be reached, an administrator names a mirror in"
            raise NetworkError(f"{sentence} PENSTOCK_FETCHER_HF_ENDPOINT where the fetcher runs") from error
        except DomainError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NetworkError(f"{self.host} answers what is no description of a model") from error
        finally:
            _ask.reset(asking)

    def url(self, repository: str, commit: str, path: str) -> str:
        """Say where the bytes of a file are, as they are at a commit."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repository, path, revision=commit, endpoint=self.endpoint)

    def repository_of(self, url: str) -> str:
        """Say whose file a URL is."""
        return url.removeprefix(f"{self.endpoint}/").partition("/resolve/")[0]

    def check_access(self, url: str, stopping: Stopping, *, repository: str) -> None:
        """See that a file would be given, which the description of a gated repository does not say.

        Raises:
            Unauthorized: it would not; and what `get` raises.
        """
        # A redirect says that it would be. What it leads to is signed for GET, and would refuse HEAD.
        with self._http.get(url, self._headers(url), stopping, method="HEAD", judged=_JUDGED | _ONWARD) as answer:
            if answer.status in _JUDGED:
                raise self._refusal(answer, repository, "")

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], stopping: Stopping, *, repository: str, revision: str = ""
    ) -> Iterator[Answer]:
        """Ask for a URL with the token; see `GuardedHttp.get`. What is refused is said in the Hub's terms."""
        with self._http.get(url, {**headers, **self._headers(url)}, stopping, judged=_JUDGED) as answer:
            if answer.status in _JUDGED:
                raise self._refusal(answer, repository, revision)
            yield answer

    def _headers(self, url: str) -> dict[str, str]:
        if self._token is None or _origin(url) != _origin(self.endpoint):
            return {}
        return {"Authorization": f"Bearer {self._token.get_secret_value()}"}

    def _refusal(self, answer: Answer, repository: str, revision: str) -> DomainError:
        status, code = answer.status, answer.headers.get("X-Error-Code", "")
        place = f"{self.endpoint}/{repository}"
        if status == 429:
            return RateLimited(f"{self.host} answered 429: it asks for patience", retry_after_s=_patience_s(answer))
        if code == "GatedRepo":
            return Unauthorized(
                f"{repository} is gated: accept its conditions at {place} with the account whose token is set here; "
                f"{self._token_words}"
            )
        if code == "RevisionNotFound":
            return ModelNotFound(f"{repository} has no revision {revision or 'main'!r}; see {place}/commits")
        if code == "EntryNotFound":
            return ModelNotFound(f"{repository} has the file no more; fetch it again, which asks anew")
        if code == "RepoNotFound" or status == 404:
            sentence = f"{self.host} knows no {repository}, or does not show it to whoever asks"
            return ModelNotFound(f"{sentence}: see that it is spelt right; where it is private, {self._token_words}")
        return Unauthorized(f"{self.host} answered {status}: it does not give {repository} to us; {self._token_words}")

    @property
    def _token_words(self) -> str:
        if self._token is None:
            return f"no token is set (set {TOKEN_SETTING} where the fetcher runs, to one that may read it)"
        return f"a token is set ({TOKEN_SETTING}); see that it is valid, and that its account may read it"


def read(answer: Answer, most: int, what: str) -> bytes:
    """Read a whole answer of at most so many bytes.

    Raises:
        FileTooLarge: it has more.
        NetworkError: it breaks off, or takes longer than `http_files.MOST_TEXT_S`.
    """
    pieces: list[bytes] = []
    with hurried(answer):
        for piece in answer.chunks():
            pieces.append(piece)
            if answer.read_bytes > most:
                raise FileTooLarge(f"{what} has more than {most:,} bytes")
    return b"".join(pieces)


def _patience_s(answer: Answer) -> float | None:
    """Read how long to wait: the Hub says it in RateLimit, others in Retry-After."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # exported at run time

    limit = parse_ratelimit_headers(answer.headers)
    if limit is not None and limit.remaining == 0:
        return min(float(limit.reset_in_seconds), MAX_RETRY_AFTER_S)
    asked_s = read_retry_after(answer.headers.get("Retry-After"), time.time())
    return None if asked_s is None else min(asked_s, MAX_RETRY_AFTER_S)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


@functools.cache
def _use_our_client() -> None:
    """Give huggingface_hub, which has one client for the whole process, one that asks as its caller said."""
    import httpx2
    from huggingface_hub import set_client_factory

    class Asked(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.method != "GET":
                raise NotImplementedError(f"{request.method} is not asked of the Hub")
            content = _reduced(_ask.get()(str(request.url)))
            return httpx2.Response(200, content=json.dumps(content).encode(), request=request)

    set_client_factory(lambda: httpx2.Client(transport=Asked(), trust_env=False, follow_redirects=False))


def _reduced(content: bytes) -> dict[str, Any]:
    """Keep of a description what is used, each of the type that it should be.

    The rest is a stranger's card, and the library's classes raise for much that people write into one.
    """
    if content.count(b"{") + content.count(b"[") > MAX_VALUES:
        raise FileTooLarge(f"the repository's description has more than {MAX_VALUES:,} values")
    document = json.loads(content)
    if not isinstance(document, dict) or not isinstance(document.get("siblings"), list):
        raise TypeError
    siblings = document["siblings"]
    if len(siblings) > MAX_SIBLINGS:
        raise FileTooLarge(f"the repository has {len(siblings):,} files; {MAX_SIBLINGS:,} are looked at")
    said, gated = document.get("cardData"), document.get("gated")
    return {
        **{name: text for name in _SAID if isinstance(text := document.get(name), str)},
        # Whatever else it may mean one day: access is asked for.
        "gated": gated if isinstance(gated, str) else bool(gated),
        "tags": _texts(document.get("tags")),
        "cardData": {name: said.get(name) for name in CARD} if isinstance(said, dict) else {},
        "siblings": [_file(each) for each in siblings if isinstance(each, dict)],
    }


def _file(said: Mapping[str, Any]) -> dict[str, Any]:
    path, blob_id, lfs = said["rfilename"], said.get("blobId"), said.get("lfs")
    if not isinstance(path, str):
        raise TypeError
    large = lfs if isinstance(lfs, dict) and isinstance(lfs.get("sha256"), str) else None
    return {
        "rfilename": path,
        "size": _count((large or said).get("size")),
        "blobId": blob_id if isinstance(blob_id, str) and _BLOB.fullmatch(blob_id) else "",
        "lfs": large and {"size": _count(large.get("size")), "sha256": large["sha256"], "pointerSize": 0},
    }


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
