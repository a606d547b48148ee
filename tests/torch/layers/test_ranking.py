"""Accuracy and ArgMax, held to the sorted pairs of the C++."""

import numpy as np
import pytest
import torch

from helpers.one_layer import one_layer, run


def largest(values, k):
    """Return the k greatest (value, index), as std::partial_sort with std::greater has them."""
    return sorted(((v, i) for i, v in enumerate(values)), reverse=True)[:k]


def ties(rng, shape):
    return rng.integers(0, 4, shape).astype(float)


def accuracy_loops(x, label, axis, top_k, ignored):
    classes = x.shape[axis]
    rows = np.moveaxis(x, axis, -1).reshape(-1, classes)
    right, number = np.zeros(classes), np.zeros(classes)
    for row, y in zip(rows, label.reshape(-1).astype(int), strict=True):
        if y == ignored:
            continue
        number[y] += 1
        right[y] += y in [i for _, i in largest(row, top_k)]
    per_class = [r / n if n else 0 for r, n in zip(right, number, strict=True)]
    return right.sum() / number.sum(), per_class


@pytest.mark.parametrize("ignored", [None, 255, 1])
@pytest.mark.parametrize("top_k", [1, 2, 6])
@pytest.mark.parametrize("axis", [1, -1, 0])
def test_accuracy_is_the_loops(axis, top_k, ignored):
    rng = np.random.default_rng(top_k)
    x = ties(rng, (6, 6, 6))
    label = rng.integers(6, size=(6, 6)).astype(float)
    if ignored == 255:
        label[::2] = 255
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    text = (
        f'type: "Accuracy" top: "accuracy" top: "per_class" '
        f"accuracy_param {{ axis: {axis} top_k: {top_k} {ignore} }}"
    )
    (accuracy, per_class), _ = run(text, x, label, top_diff=None)
    expected = accuracy_loops(x, label, axis, top_k, ignored)
    assert accuracy.shape == ()
    assert accuracy == pytest.approx(expected[0], rel=1e-15)
    np.testing.assert_allclose(per_class, expected[1], rtol=1e-15)


def test_accuracy_of_another_batch():
    rng = np.random.default_rng(9)
    x, label = ties(rng, (5, 4)), np.array([0.0, 1, 2, 3, 3])
    (accuracy,), _ = run('type: "Accuracy"', x, label, built_for=[(2, 4), (2,)], top_diff=None)
    assert accuracy == accuracy_loops(x, label, 1, 1, None)[0]


def test_accuracy_where_all_is_ignored_is_0_over_0():
    text = 'type: "Accuracy" top: "y" top: "z" accuracy_param { ignore_label: 2 }'
    (accuracy, per_class), _ = run(text, np.eye(3), [2, 2, 2], top_diff=None)
    assert np.isnan(accuracy)
    assert per_class.tolist() == [0, 0, 0]


def test_scores_that_are_nan_are_not_right():
    (accuracy,), _ = run('type: "Accuracy"', np.full((3, 4), np.nan), [0, 1, 2], top_diff=None)
    assert accuracy == 0


def test_accuracy_refuses_a_label_that_is_no_class():
    with pytest.raises(ValueError, match=r"row 1 of label is 3.0; labels must lie in \[0, 3\)"):
        run('type: "Accuracy"', np.eye(3), [0, 3, 1], top_diff=None)


@pytest.mark.parametrize("out_max_val", ["false", "true"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_argmax_along_an_axis_is_the_loops(axis, top_k, out_max_val):
    x = ties(np.random.default_rng(top_k), (5, 6, 7))
    text = (
        f'type: "ArgMax" argmax_param {{ axis: {axis} top_k: {top_k} out_max_val: {out_max_val} }}'
    )
    (top,), _ = run(text, x, top_diff=None)
    what = 0 if out_max_val == "true" else 1
    expected = np.apply_along_axis(
        lambda values: [pair[what] for pair in largest(values, top_k)], axis, x
    )
    assert top.tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [(3,), (3, 6), (3, 2, 3), (3, 2, 3, 2), (3, 1, 2, 3, 1)])
@pytest.mark.parametrize("out_max_val", ["false", "true"])
def test_argmax_of_all_is_the_loops(out_max_val, shape):
    x = ties(np.random.default_rng(3), shape)
    top_k = min(4, x.size // 3)
    text = f'type: "ArgMax" argmax_param {{ top_k: {top_k} out_max_val: {out_max_val} }}'
    (top,), _ = run(text, x, top_diff=None, built_for=[(2, *shape[1:])])
    pairs = np.array([largest(row, top_k) for row in x.reshape(3, -1)])  # (N, top_k, 2)
    expected = pairs[..., ::-1] if out_max_val == "true" else pairs[..., 1:]
    assert top.ndim == max(3, len(shape))
    assert top.reshape(top.shape[:3]).tolist() == expected.transpose(0, 2, 1).tolist()


@pytest.mark.parametrize("top_k", [1, 3])
def test_argmax_exports(top_k):
    layer = one_layer(f'type: "ArgMax" argmax_param {{ top_k: {top_k} }}', (2, 5)).layer
    x = torch.rand(4, 5)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    x = torch.rand(7, 5)
    assert torch.equal(program.module()(x), layer(x))
