"""Runs a recipe in a process of its own beside the trainer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from services.common.children.child import signal_name
from services.trainer.executing.hearing import Hearing
from services.trainer.executing.outcomes import read_outcome
from services.trainer.executing.recipe_process import RecipeProcess
from services.trainer.executing.watching import Watch
from services.trainer.faults import TrainingFailed
from services.trainer.recipes.catalogue import SCRIPT
from services.trainer.recipes.confinement import OWN, Confinement
from services.trainer.recipes.lines import Done, Failed
from services.trainer.task import Event, Outcome, RunFolder, Stopping, Task

GIBIBYTE: Final = 1024**3
ACCELERATORS: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """What a run's processes may do beside what its task says.

    Attributes:
        max_output_bytes: all files that they write, together, at any moment.
        max_log_bytes: what they may print.
        threads: that libraries are told to compute with.
        script_network: whether scripts may connect; recipes of ours never do.
        require_sandbox: run nothing where the kernel has less than the whole sandbox.
    """

    max_output_bytes: int = 5 * GIBIBYTE
    max_log_bytes: int = 8 * GIBIBYTE
    threads: int = 1
    script_network: bool = False
    require_sandbox: bool = False


class LocalExecutor:
    """Runs recipes in processes of their own on this machine; keeps no state, so that any threads may share one."""

    name: ClassVar[str] = "LOCAL"

    def __init__(self, limits: LocalLimits | None = None) -> None:
        self._limits = limits or LocalLimits()

    def execute(self, task: Task, folder: RunFolder, tell: Callable[[Event], None], stopping: Stopping) -> Outcome:
        """Run a task to its end; see `Executor`. Whatever happens, nothing of it runs any more when this is over."""
        stopping.check()
        _prepare(task, folder)
        with self._started(task, folder) as process:
            stopping.on_stop(process.kill)
            try:
                hearing = Hearing(process, tell, self._limits.max_log_bytes)
                with Watch(process, folder.path, task, self._limits.max_output_bytes) as watch:
                    hearing.listen()
                returncode = process.end()
                hearing.listen_to_the_rest()
            finally:
                stopping.forget(process.kill)
        if hearing.end is None:
            stopping.check()
        self._check(hearing, watch, returncode)
        return read_outcome(folder, self._limits.max_output_bytes)

    def _started(self, task: Task, folder: RunFolder) -> RecipeProcess:
        limits = self._limits
        network = limits.script_network and task.recipe == SCRIPT
        confinement = Confinement(task.memory_limit_bytes, limits.max_output_bytes, network)
        environment = _environment(folder, limits.threads)
        return RecipeProcess(folder.path, environment, confinement, require=limits.require_sandbox)

    def _check(self, hearing: Hearing, watch: Watch, returncode: int) -> None:
        """Let a recipe pass that is done; raises TrainingFailed for any other."""
        match watch.exceeded or hearing.end:
            case Done():
                return
            case Failed(reason, message):
                raise TrainingFailed(message, reason=reason)
        if returncode == -signal.SIGKILL:
            # It was not us, and nobody else is known to do it.
            sentence = f"the recipe's process was killed, as a system does that has no memory left{watch.used()}"
            raise TrainingFailed(sentence, reason="OUT_OF_MEMORY")
        if returncode < 0:
            raise TrainingFailed(f"the recipe's process was ended by {signal_name(-returncode)}{watch.used()}")
        raise TrainingFailed(f"the recipe's process ended with code {returncode} and left no outcome; see its log")


def _prepare(task: Task, folder: RunFolder) -> None:
    task.write(folder.task)
    for own in OWN:
        (folder.path / own).mkdir(exist_ok=True)
    # Of an attempt before: it would be taken for this one's.
    folder.outcome.unlink(missing_ok=True)


def _environment(folder: RunFolder, threads: int) -> dict[str, str]:
    """All that the process has of an environment: nothing of ours, and libraries that are quiet and modest."""
    quiet = {
        "ORT_DISABLE_TELEMETRY": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "KERAS_BACKEND": "tensorflow",
        "TOKENIZERS_PARALLELISM": "false",
        # Its processes would ask for shared memory, which there is none of: it takes threads.
        "JOBLIB_MULTIPROCESSING": "0",
    }
    counted = (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
        "LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
    )  # fmt: skip
    places = {"HOME": str(folder.path / "home"), "TMPDIR": str(folder.path / "tmp"), "PATH": "/usr/bin:/bin"}
    # Which accelerators are this process' own: a cluster gives each of its jobs some.
    given = {name: os.environ[name] for name in ACCELERATORS if name in os.environ}
    return {**places, "LANG": "C.UTF-8", **quiet, **dict.fromkeys(counted, str(threads)), **given}
