"""Scores are scikit-learn's, whatever labels look like."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from services.trainer.recipes.scores import BINARY, CLASSIFICATION, REGRESSION, scores

RNG = np.random.default_rng(5)


def drawn(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = RNG.integers(0, classes, rows)
    weights = RNG.random((rows, classes)).astype(np.float32).round(2) + np.float32(0.01)
    weights[np.arange(rows), labels] += np.float32(0.3)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    return labels, probabilities.argmax(axis=1), probabilities


def test_of_two_classes_they_are_those_of_scikit_learn() -> None:
    labels, predictions, probabilities = drawn(300, 2)
    found = scores(BINARY, labels, predictions, probabilities, ("0", "1"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predictions))
    assert found["precision"] == pytest.approx(metrics.precision_score(labels, predictions))
    assert found["recall"] == pytest.approx(metrics.recall_score(labels, predictions))
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, predictions))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities[:, 1]))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(labels, probabilities[:, 1]))


def test_of_more_classes_they_are_means_and_each_class_has_its_own() -> None:
    labels, predictions, probabilities = drawn(300, 4)
    found = scores(CLASSIFICATION, labels, predictions, probabilities, ("0", "1", "2", "3"))
    assert found["precision"] == pytest.approx(metrics.precision_score(labels, predictions, average="macro"))
    assert found["recall"] == pytest.approx(metrics.recall_score(labels, predictions, average="macro"))
    by_class = metrics.f1_score(labels, predictions, average=None)
    assert [found[f"f1[{number}]"] for number in range(4)] == pytest.approx(by_class)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    whole = np.eye(4)[labels] - probabilities
    assert found["brier"] == pytest.approx((whole**2).sum(axis=1).mean(), rel=1e-5)
    assert "roc_auc" not in found


def test_of_numbers_they_are_those_of_scikit_learn() -> None:
    labels = RNG.normal(50, 10, 200)
    predictions = labels + RNG.normal(0, 3, 200)
    found = scores(REGRESSION, labels, predictions.reshape(-1, 1))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(labels, predictions))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(labels, predictions))
    assert found["r2"] == pytest.approx(metrics.r2_score(labels, predictions))


def test_the_same_class_is_the_same_in_every_spelling() -> None:
    """A file says 1.0 or true, the model 1, a tensor of text b"1"."""
    for labels, predictions in (
        (np.array([0.0, 1.0]), np.array([0, 1])),
        (np.array([False, True]), np.array([0, 1])),
        (["0", "1"], np.array([b"0", b"1"], dtype=object)),
        ([0, "1"], np.array([[0], [1]])),
    ):
        assert scores(BINARY, labels, predictions)["accuracy"] == 1


def test_what_is_not_defined_or_not_finite_is_left_out() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores(BINARY, [], []) == {}
        alike = scores(BINARY, [1, 1], [1, 1], np.array([[0.1, 0.9], [0.2, 0.8]]), ("0", "1"))
        assert "roc_auc" not in alike
        assert alike["accuracy"] == alike["balanced_accuracy"] == 1
        assert set(scores(REGRESSION, [3.0, 3.0], [3.0, 4.0])) == {"rmse", "mae"}
        assert scores(REGRESSION, [3.0, 4.0], [3.0, float("nan")]) == {}
        assert "rmse" not in scores(REGRESSION, [1e300], [-1e300])


def test_a_class_that_training_never_saw_counts_as_wrong_and_improbable() -> None:
    found = scores(BINARY, ["no", "yes", "new"], ["no", "yes", "no"], np.array([[1, 0], [0, 1], [1, 0]]), ("no", "yes"))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log(np.finfo(np.float32).eps) / 3, rel=1e-6)
    assert found["brier"] == pytest.approx(2 / 3 / 2)
    assert "roc_auc" not in found


def test_many_classes_do_not_become_many_metrics() -> None:
    labels = [f"class {number}" for number in range(500)]
    found = scores(CLASSIFICATION, labels, labels)
    assert len(found) < 100
    assert found["f1[class 107]"] == 1
    assert "x" * 200 not in str(scores(CLASSIFICATION, ["x" * 200, "y"], ["y", "y"]))
