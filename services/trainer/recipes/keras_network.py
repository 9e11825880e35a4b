"""A network of Keras that learns: an epoch is one call of TensorFlow. Imported while a run trains.

Keras' own `fit` comes back to Python for every batch, which costs more than a small network's batch itself. Layers,
losses and the optimiser are Keras', and so is what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from services.trainer.recipes.dense_network import Dense, Network
from services.trainer.recipes.rows import Answers
from services.trainer.recipes.scores import BINARY
from services.trainer.recipes.targets import Target

ROWS_AT_ONCE: Final = 8_192
"""Rows that are answered in one call."""
Floats = NDArray[np.float32]


class KerasNetwork:
    """Dense layers, their optimiser, and what is to be learned."""

    def __init__(
        self, width: int, layers: Sequence[tuple[int, str]], target: Target, *, learning_rate: float, seed: int
    ) -> None:
        """Begin with weights drawn by the seed; `layers` are units and activation, the last one's included."""
        keras.utils.set_random_seed(seed)
        dense = [keras.layers.Dense(units, activation=activation) for units, activation in layers]
        self.model = keras.Sequential([keras.Input((width,)), *dense])
        self._layers = dense
        self._target = target
        self._loss = _loss_of(target)
        self._optimizer = keras.optimizers.Adam(learning_rate)
        self._optimizer.build(self.model.trainable_variables)

    @property
    def weights(self) -> Network:
        """The layers as plain arrays."""
        return tuple(
            Dense(np.asarray(layer.kernel), np.asarray(layer.bias), layer.activation.__name__) for layer in self._layers
        )

    def begin_with(self, network: Network) -> None:
        """Take another network's weights, of the same shape."""
        for layer, given in zip(self._layers, network, strict=True):
            layer.set_weights([given.kernel, given.bias])

    @property
    def state(self) -> list[NDArray[Any]]:
        """All that learning goes on from: weights, and what the optimiser keeps."""
        return [np.asarray(variable) for variable in (*self.model.variables, *self._optimizer.variables)]

    @state.setter
    def state(self, state: Sequence[NDArray[Any]]) -> None:
        variables = [*self.model.variables, *self._optimizer.variables]
        for variable, value in zip(variables, state, strict=True):
            if tuple(variable.shape) != value.shape:
                raise ValueError(f"a variable has the shape {tuple(variable.shape)}, and {value.shape} came")
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)

    def epochs_on(
        self, matrix: Floats, wanted: NDArray[Any], weights: Floats, batch_size: int
    ) -> Callable[[NDArray[np.int64]], dict[str, float]]:
        """Give what learns from these rows in an order that it is told, and tells the loss and how good it was."""
        rows, labels, weighed = tf.constant(matrix), tf.constant(wanted), tf.constant(weights)
        variables = self.model.trainable_variables

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])  # type: ignore[untyped-decorator]
        def epoch(order: Any) -> tuple[Any, Any]:
            count = tf.shape(order)[0]
            start, loss, good = tf.constant(0), tf.constant(0.0), tf.constant(0.0)
            # Of a loss that is no number nothing more is learned.
            while tf.logical_and(start < count, tf.math.is_finite(loss)):
                chosen = order[start : start + batch_size]
                expected = tf.gather(labels, chosen)
                with tf.GradientTape() as tape:
                    answers = self.model(tf.gather(rows, chosen), training=True)
                    losses = self._loss(expected, answers) * tf.gather(weighed, chosen)
                    batch_loss = tf.reduce_mean(losses)
                self._optimizer.apply(tape.gradient(batch_loss, variables), variables)
                loss += tf.reduce_sum(losses)
                good += tf.reduce_sum(self._good(expected, answers))
                start += batch_size
            return loss, good

        def learn(order: NDArray[np.int64]) -> dict[str, float]:
            loss, good = epoch(tf.constant(order))
            return self._named(float(loss), float(good), len(order))

        return learn

    def measure(self, matrix: Floats, wanted: NDArray[Any]) -> dict[str, float]:
        """Give the loss on rows, and how good it is there; rows of a class that training never saw have no loss."""
        known = np.ones(len(wanted), bool) if self._target.is_regression else wanted >= 0
        answers = self.raw(matrix[known])
        expected = tf.constant(wanted[known])
        loss = tf.reduce_sum(self._loss(expected, answers))
        return self._named(float(loss), float(tf.reduce_sum(self._good(expected, answers))), int(known.sum()))

    def raw(self, matrix: Floats) -> Floats:
        """Give what the last layer says: Keras' own answers."""
        parts = [
            np.asarray(self.model(matrix[start : start + ROWS_AT_ONCE], training=False))
            for start in range(0, len(matrix), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.output_shape[-1]), np.float32)

    def answers(self, matrix: Floats) -> Answers:
        """Give what the model says of rows."""
        said, target = self.raw(matrix), self._target
        if target.is_regression:
            return Answers(numbers=(said * np.float32(target.scale) + np.float32(target.center)).reshape(-1))
        probabilities = np.concatenate([1 - said, said], axis=1) if said.shape[1] == 1 else said
        return Answers(places=probabilities.argmax(axis=1), probabilities=probabilities)

    def _good(self, expected: Any, answers: Any) -> Any:
        """Of each row: whether it is right, or the square of its error."""
        if self._target.is_regression:
            return tf.square(expected - answers[:, 0])
        said = tf.cast(answers[:, 0] > 0.5, expected.dtype)  # of two classes by one answer
        if answers.shape[1] > 1:
            said = tf.argmax(answers, axis=1, output_type=expected.dtype)
        return tf.cast(said == expected, tf.float32)

    def _named(self, loss: float, good: float, rows: int) -> dict[str, float]:
        if not rows:
            return {}
        if self._target.is_regression:
            return {"loss": loss / rows, "rmse": float(np.sqrt(good / rows)) * self._target.scale}
        return {"loss": loss / rows, "accuracy": good / rows}


def last_layer(target: Target) -> tuple[int, str]:
    """Units and activation of what answers."""
    if target.is_regression:
        return 1, "linear"
    return (1, "sigmoid") if target.task_type == BINARY else (len(target.classes), "softmax")


def _loss_of(target: Target) -> Callable[[Any, Any], Any]:
    """Give the loss of each row."""
    if target.is_regression:
        return lambda expected, answers: tf.square(expected - answers[:, 0])
    if target.task_type == BINARY:
        return lambda expected, answers: keras.losses.binary_crossentropy(
            tf.cast(expected, tf.float32)[:, None], answers
        )
    return lambda expected, answers: keras.losses.sparse_categorical_crossentropy(expected, answers)
