"""Where an Ollama server is."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class OllamaAddress:
    """A base URL, taken apart. It holds no secret, so that errors may name it."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> OllamaAddress:
        """Read a URL; raises ValueError, and quotes nothing of it: what is refused may hold a secret."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("the URL of the Ollama server cannot be read") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an Ollama server has an http:// or https:// URL with a host")
        if "@" in parts.netloc:
            raise ValueError("keep credentials out of the URL of the Ollama server: PENSTOCK_OLLAMA_TOKEN_FILE")
        if parts.query or parts.fragment:
            raise ValueError("the URL of an Ollama server ends with its path, if it has one")
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{'' if self.port is None else f':{self.port}'}{self.path}"


def check_url(url: str) -> str:
    """Give a URL back if an Ollama server may have it; raises ValueError as `OllamaAddress.parse` does."""
    OllamaAddress.parse(url)
    return url
