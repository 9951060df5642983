"""Objectives: losses and metrics of examples by their definitions, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.objectives import classification, means, regression

LOGITS = jnp.asarray([[1.0, 2.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 0.0, 4.0], [2.0, 1.0, 0.0]], jnp.float32)
LABELS = jnp.asarray([1, 1, 0, 0], jnp.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_definition(smoothing):
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    target = (1 - smoothing) * np.eye(3)[LABELS] + smoothing / 3
    each = -(target * np.log(probabilities)).sum(1)
    np.testing.assert_allclose(classification(smoothing).loss(LOGITS, LABELS), each, rtol=1e-5)
    loss, metric = means(classification(smoothing), LOGITS, LABELS)
    np.testing.assert_allclose((loss, metric), (each.mean(), 0.5), rtol=1e-5)


def test_accuracies_count_the_first_of_equal_logits():
    # Right, wrong by a tie that goes to class 0, wrong, right.
    right = {k: classification(top_k=k).metric(LOGITS, LABELS).tolist() for k in (1, 2, 3)}
    assert right == {1: [1, 0, 0, 1], 2: [1, 1, 0, 1], 3: [1, 1, 1, 1]}
    assert (classification().name, classification(top_k=2).name) == ("accuracy", "top_2_accuracy")
    # A logit that is no number makes no example right by accident.
    assert classification().metric(jnp.full((1, 3), jnp.nan), jnp.asarray([2])).tolist() == [0.0]


def test_regression_is_the_mean_squared_error_of_each_example():
    outputs, targets = jnp.asarray([[1.0, 2.0], [0.0, -1.0]]), jnp.asarray([[1.0, 0.0], [3.0, 0.0]])
    objective = regression()
    assert objective.loss(outputs, targets).tolist() == [2.0, 5.0]
    assert objective.metric(outputs, targets).tolist() == [-2.0, -5.0]
    assert objective.loss(outputs[:, :1], targets[:, 0]).tolist() == [0.0, 9.0]  # a column for one number


def test_what_does_not_fit_is_refused():
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
            classification(wrong)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        classification(top_k=0)
    with pytest.raises(ValueError, match="at most the number of classes, 3, got 4"):
        classification(top_k=4).metric(LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"integer targets .* float32 \(4,\); give an objective that fits"):
        classification().loss(LOGITS, LABELS.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"shape of the targets, \(4,\), got \(4, 3\)"):
        regression().loss(LOGITS, LABELS.astype(jnp.float32))
