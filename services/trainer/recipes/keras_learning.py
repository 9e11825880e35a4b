"""Epoch after epoch: what is told, kept and stopped for. Imported while a run trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.dense_network import shape_of
from services.trainer.recipes.keras_checkpoint import Checkpoint
from services.trainer.recipes.keras_network import KerasNetwork, last_layer
from services.trainer.recipes.rows import Rows
from services.trainer.task import Part

if TYPE_CHECKING:
    from services.trainer.recipes.keras_mlp import KerasMlpParameters
    from services.trainer.recipes.keras_parent import Parent


def begun(rows: Rows, parameters: KerasMlpParameters, parent: Parent | None) -> KerasNetwork:
    """Make a network, drawn by the seed or with the parent's weights."""
    layers = [(units, parameters.activation) for units in parameters.hidden_units]
    network = KerasNetwork(
        rows.preprocessing.width,
        shape_of(parent.network) if parent else [*layers, last_layer(rows.target)],
        rows.target,
        learning_rate=parameters.learning_rate,
        seed=parameters.seed,
    )
    if parent:
        network.begin_with(parent.network)
    return network


def learn(network: KerasNetwork, rows: Rows, parameters: KerasMlpParameters, context: Context) -> list[str]:
    """Learn from the training rows, from the last checkpoint on where there is one; gives sentences on how it went.

    The order of rows in an epoch comes of the seed and the epoch's number, so that a run which goes on from a
    checkpoint ends as one that was never interrupted.

    Raises:
        TrainingFailed: LOSS_NOT_FINITE as soon as the loss is no number; INVALID_DATA: there are no validation rows to
            stop early by; INVALID_PARAMETERS: weights of classes that there are not.
    """
    if parameters.early_stopping_patience and not rows.count(Part.VALIDATION):
        sentence = "early stopping looks at validation rows, and there are none: give the split a validation share"
        raise TrainingFailed(sentence, reason="INVALID_DATA")
    validated = rows.matrix(Part.VALIDATION), _wanted(rows, Part.VALIDATION)
    learn_epoch = network.epochs_on(
        rows.matrix(Part.TRAIN), _wanted(rows, Part.TRAIN), row_weights(rows, parameters), parameters.batch_size
    )
    patience = Patience(parameters.early_stopping_patience)
    done = _resume(network, patience, context)
    while done < parameters.epochs and not patience.is_over(done):
        done += 1
        order = np.random.default_rng([parameters.seed, done]).permutation(rows.count(Part.TRAIN))
        metrics = learn_epoch(order)
        if len(validated[1]):
            metrics |= {f"validation_{name}": value for name, value in network.measure(*validated).items()}
        context.report(done, metrics, total=parameters.epochs)
        patience.look(done, metrics, network)
        if parameters.checkpoint_every_epochs and done % parameters.checkpoint_every_epochs == 0:
            patience.checkpoint(done, network).write(context.checkpoint)
            context.save_checkpoint(done)
    return patience.end(done, network)


@dataclass(slots=True)
class Patience:
    """Early stopping: the best epoch so far, and whether a better one is still waited for.

    Attributes:
        epochs: how many without a lower loss it lasts; None: for ever, and the last epoch is the one that counts.
    """

    epochs: int | None
    best_epoch: int = 0
    best_loss: float = float("inf")
    best: Sequence[NDArray[Any]] = ()

    def look(self, epoch: int, metrics: Mapping[str, float], network: KerasNetwork) -> None:
        """See how good an epoch was; of validation rows whose classes nobody knows there is no loss."""
        loss = metrics.get("validation_loss", float("inf"))
        if self.epochs and loss < self.best_loss:
            self.best_epoch, self.best_loss, self.best = epoch, loss, network.state

    def is_over(self, epoch: int) -> bool:
        """Whether no better epoch is waited for after this one."""
        return self.epochs is not None and epoch - self.best_epoch >= self.epochs

    def checkpoint(self, epoch: int, network: KerasNetwork) -> Checkpoint:
        """Give what learning goes on from after this epoch."""
        return Checkpoint(epoch, network.state, self.best_epoch, self.best_loss, self.best)

    def end(self, epoch: int, network: KerasNetwork) -> list[str]:
        """Keep the best epoch, where one was looked for."""
        if not self.best:
            return []
        network.state = self.best
        return [f"epoch {self.best_epoch} of {epoch} had the lowest loss on the validation rows, and is kept"]


def row_weights(rows: Rows, parameters: KerasMlpParameters) -> NDArray[np.float32]:
    """Give what each training row weighs; raises TrainingFailed(INVALID_PARAMETERS)."""
    said, target, count = parameters.class_weights, rows.target, rows.count(Part.TRAIN)
    if said == "none":
        return np.ones(count, np.float32)
    if target.is_regression:
        raise TrainingFailed("class_weights: a regression has no classes", reason="INVALID_PARAMETERS")
    places = rows.wanted(Part.TRAIN).astype(np.int64)
    if isinstance(said, dict):
        unknown = sorted(set(said) - set(target.classes))
        if unknown:
            there = ", ".join(target.classes[:20])
            raise TrainingFailed(
                f"class_weights: {unknown[0]!r} is no class; there are {there}", reason="INVALID_PARAMETERS"
            )
        by_class = np.array([said.get(name, 1.0) for name in target.classes])
    else:
        # Of a finetune's classes some may have no row.
        by_class = count / (len(target.classes) * np.maximum(np.bincount(places, minlength=len(target.classes)), 1))
    return by_class[places].astype(np.float32)


def _wanted(rows: Rows, part: Part) -> NDArray[Any]:
    """Give what the network is to say: places, or numbers in the scale that it learns in."""
    wanted = rows.wanted(part)
    target = rows.target
    return ((wanted - target.center) / target.scale).astype(np.float32) if target.is_regression else wanted


def _resume(network: KerasNetwork, patience: Patience, context: Context) -> int:
    """Go on from the last checkpoint; gives the epochs that are done."""
    try:
        found = Checkpoint.find(context.checkpoint)
        if found is None:
            return 0
        network.state = found.state
    except ValueError as error:
        print(f"the checkpoint is left, and learning begins anew: {error}")  # noqa: T201 - it is the run's log
        return 0
    patience.best_epoch, patience.best_loss, patience.best = found.best_epoch, found.best_loss, found.best
    print(f"going on after epoch {found.epoch}, from the checkpoint")  # noqa: T201 - what is printed is the run's log
    return found.epoch
