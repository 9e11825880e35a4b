"""Models of TensorFlow: SavedModels and `.keras` files. TensorFlow itself is imported when the runtime is built."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from services.common.cpus import cpu_count
from services.common.errors import FailedPrecondition
from services.inference.runtimes.runtime import Artifact, Session

SIGNATURE_FIELD = "signature_name"
"""The field of a version's metadata that names its signature; the registry's validator reads it too."""
# Keras would read its backend and its float type from a file in the home folder, and write one there; below what is
# no folder there is none, and none can be made.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}


class TensorFlowRuntime:
    """Opens SavedModels, by one of their signatures, and `.keras` files.

    Building it imports TensorFlow, which takes seconds and some hundred megabytes: so it is built with the first
    model that needs it. `threads` 0 means all processors of this process. What policy let into the registry is not let
    in here: a `.keras` file is always opened in Keras's safe mode, without Python of its own.

    Raises FailedPrecondition(RUNTIME_NOT_INSTALLED).
    """

    def __init__(self, *, threads: int = 0) -> None:
        if importlib.util.find_spec("tensorflow") is None:
            sentence = (
                "TensorFlow is not installed on this server, so it runs no SavedModel and no .keras file; install it "
                "beside the service (make .venv/.tensorflow, or pip install 'penstock[tensorflow]')"
            )
            raise FailedPrecondition(sentence, reason="RUNTIME_NOT_INSTALLED")
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._models: Any = importlib.import_module("services.inference.runtimes.tensorflow_models")
        self._models.configure(threads or cpu_count())

    def load(self, artifact: Artifact) -> Session:
        """Open the model; raises FailedPrecondition(MODEL_LOAD_FAILED, SIGNATURE_NOT_FOUND, UNSUPPORTED_DATATYPE).

        The signature of a SavedModel is the one that the version's metadata names, else `serving_default`, else its
        only one.
        """
        name = artifact.version.metadata.fields.get(SIGNATURE_FIELD, "")
        session: Session = self._models.load(artifact, str(name))
        return session
