"""The parent version's files, for recipes that begin with them."""

from __future__ import annotations

from collections.abc import Callable

from penstock import Client
from penstock.errors import PenstockError
from services.common.checks import file_path
from services.common.jobs import JobRun
from services.trainer.faults import TrainingFailed
from services.trainer.registering.answers import registry_answers
from services.trainer.runs.models import RunSpec
from services.trainer.task import RunFolder, TrainingType


class Parents:
    """Brings parents. `max_bytes`: of all files of one."""

    def __init__(self, open_client: Callable[[], Client], max_bytes: int) -> None:
        self._open_client = open_client
        self._max_bytes = max_bytes

    def bring(self, run: JobRun, spec: RunSpec, folder: RunFolder, *, always: bool) -> None:
        """Write the parent's files into `folder.parent`, where the run begins with them.

        Raises:
            TrainingFailed: they are more than is allowed (TOO_MUCH_OUTPUT).
            RegistrationFailed, RegistryUnavailable: see `registry_answers`.
        """
        if not (always or spec.type is TrainingType.FINETUNE) or not spec.parent_version:
            return
        with registry_answers(), self._open_client() as client:
            run.on_stop(client.close)
            try:
                version = client.registry.get_version(spec.model, spec.parent_version)
                if sum(file.size_bytes for file in version.files) > self._max_bytes:
                    sentence = f"{spec.model} {spec.parent_version} is larger than {self._max_bytes:,} bytes"
                    raise TrainingFailed(sentence, reason="TOO_MUCH_OUTPUT")
                for file in version.files:
                    path = folder.parent / file_path("files.path", file.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    client.registry.download(spec.model, spec.parent_version, path, path=file.path)
            except PenstockError:
                run.check()  # what it stumbled over may be its own end
                raise
            finally:
                run.forget(client.close)
