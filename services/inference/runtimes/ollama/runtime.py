"""Models that an Ollama server keeps and runs: a version refers to one, and brings no files."""

from __future__ import annotations

from services.common.errors import FailedPrecondition
from services.inference.runtimes.ollama.answers import parse
from services.inference.runtimes.ollama.server import OllamaServer
from services.inference.runtimes.ollama.session import PATHS, OllamaSession
from services.inference.runtimes.runtime import Artifact

SHOW_TIMEOUT_S = 10.0


class OllamaRuntime:
    """Serves references by one Ollama server."""

    def __init__(self, server: OllamaServer) -> None:
        self._server = server

    def load(self, artifact: Artifact) -> OllamaSession:
        """Ask the server for the model; raises what `Call.lines` does, and FailedPrecondition(MODEL_LOAD_FAILED)."""
        reference = artifact.version.ollama
        if reference is None or reference.mode not in PATHS:
            sentence = "the version does not say which of Ollama's models answers, or by a call that is not known here"
            raise FailedPrecondition(sentence, reason="MODEL_LOAD_FAILED")
        call = self._server.call("/api/show", {"model": reference.model}, timeout_s=SHOW_TIMEOUT_S)
        parse(b" ".join(call.lines()))
        return OllamaSession(self._server, reference, artifact.version.signature)
