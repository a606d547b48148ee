"""The protocols of face verification against what the published codes computed."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from caffe_margin.study.pairs import (
    Pairs,
    cosine,
    draw_pairs,
    evaluate,
    insightface_val_at_far,
    roc,
)
from helpers.places import DATA

SETS = ["accuracy70", "lfw6000", "ties", "tie_at_threshold", "zero_norm"]


@pytest.fixture(scope="module", params=SETS)
def recorded(request):
    with np.load(DATA / "pairs" / f"{request.param}.npz") as arrays:
        return dict(arrays)


def images(recorded):
    return recorded["left"], recorded["right"], recorded["same"]


def mirrors(recorded):
    return recorded["left_mirror"], recorded["right_mirror"]


@pytest.mark.parametrize("protocol", ["sphereface", "sphereface_pytorch", "insightface"])
def test_evaluate(recorded, protocol):
    fold = recorded.get(f"{protocol}/fold", recorded["fold"])
    evaluation = evaluate(protocol, *images(recorded), fold, *mirrors(recorded))
    assert evaluation.accuracy.tolist() == recorded[f"{protocol}/accuracy"].tolist()
    np.testing.assert_allclose(
        evaluation.threshold, recorded[f"{protocol}/threshold"], rtol=0, atol=1e-12
    )
    assert evaluation.mean_accuracy == pytest.approx(
        float(recorded[f"{protocol}/mean_accuracy"]), abs=1e-15
    )
    if protocol != "sphereface":
        std = float(recorded[f"{protocol}/std_accuracy"])
        assert evaluation.std_accuracy == pytest.approx(std, abs=1e-15)


def test_sphereface_without_mirrors(recorded):
    evaluation = evaluate("sphereface", *images(recorded), recorded["fold"])
    assert evaluation.accuracy.tolist() == recorded["sphereface_no_mirror/accuracy"].tolist()


@pytest.mark.parametrize("protocol", ["sphereface_pytorch", "insightface"])
@pytest.mark.parametrize("name", ["accuracy70", "lfw6000", "ties"])
def test_a_protocol_has_ten_folds_of_its_own(name, protocol):
    with np.load(DATA / "pairs" / f"{name}.npz") as recorded:
        evaluation = evaluate(protocol, *images(recorded))
        assert evaluation.fold.tolist() == recorded[f"{protocol}/fold"].tolist()


def test_scores_pass_through_text(recorded):
    fold = recorded["sphereface_pytorch/fold"]
    evaluation = evaluate("sphereface_pytorch", *images(recorded), fold)
    # In float32 the sum's order shows in the last digits.
    atol = 1e-6 if recorded["left"].dtype == np.float32 else 0
    np.testing.assert_allclose(
        evaluation.scores, recorded["sphereface_pytorch/scores_as_text"], rtol=0, atol=atol
    )


@pytest.mark.parametrize("far", ["0.1", "0.01", "0.001"])
def test_insightface_val_at_far(recorded, far):
    pairs = Pairs.of(*images(recorded), *mirrors(recorded))
    values = insightface_val_at_far(pairs, recorded["insightface/fold"], float(far))
    np.testing.assert_allclose(
        values, recorded[f"insightface/val_at_far_{far}_folds"], rtol=0, atol=1e-12
    )


def test_roc(recorded):
    if "roc/auc" not in recorded:
        with pytest.raises(ValueError, match="pair 5 is NaN: one of its features is zero"):
            roc(np.array([1.0, 0, 1, 0, 1, np.nan]), [1, 0, 1, 0, 1, 0])
        return
    scores = cosine(
        *(np.hstack([recorded[side], recorded[f"{side}_mirror"]]) for side in ("left", "right"))
    )
    curve = roc(recorded["roc/scores"], recorded["same"])
    np.testing.assert_allclose(scores, recorded["roc/scores"], rtol=0, atol=1e-6)
    assert curve.auc == pytest.approx(float(recorded["roc/auc"]), abs=1e-14)
    assert curve.eer == pytest.approx(float(recorded["roc/eer"]), abs=1e-14)
    for far in ("0.1", "0.01", "0.001"):
        assert curve.tar_at(float(far)) == float(recorded[f"roc/tar_at_far_{far}"])


def test_an_accuracy_is_the_share_of_right_answers():
    """By scikit-learn, at the threshold that was found."""
    rng = np.random.default_rng(0)
    left, same = rng.standard_normal((80, 5)), np.tile([True, False], 40)
    right = np.where(same[:, None], left + rng.standard_normal((80, 5)), left[::-1])
    fold = np.repeat([7, 9], 40)
    evaluation = evaluate("insightface", left, right, same, fold)
    for i, name in enumerate((7, 9)):
        says = -evaluation.scores[fold == name] < evaluation.threshold[i]
        assert accuracy_score(same[fold == name], says) == evaluation.accuracy[i]


GOOD = (np.eye(4), np.eye(4), [True, False, True, False], [1, 1, 2, 2])


@pytest.mark.parametrize(
    ("protocol", "change", "message"),
    [
        ("lfw", {}, "'lfw' is not known; there are sphereface, sphereface_pytorch, insightface"),
        ("sphereface", {"right": np.eye(3)}, r"right is \(3, 3\), but left is \(4, 4\)"),
        ("sphereface", {"left": np.ones(4)}, r"left is \(4,\); features are \(N, D\)"),
        ("sphereface", {"same": [True]}, r"same is \(1,\); for 4 pairs it is \(4,\)"),
        ("sphereface", {"fold": [1, 2]}, r"fold is \(2,\); for 4 pairs it is \(4,\)"),
        ("sphereface", {"fold": [1, 1, 1, 1]}, "there is one fold"),
        ("sphereface", {"fold": [1, 2, 1, 2]}, "all 2 pairs of fold 1 are of the same person"),
        ("sphereface", {"left_mirror": np.eye(4)}, "come for both sides, or for neither"),
        ("insightface", {"right": np.full((4, 4), np.inf)}, "right: row 0 is not finite"),
    ],
)
def test_bad_pairs(protocol, change, message):
    named = dict(zip(("left", "right", "same", "fold"), GOOD, strict=True)) | change
    with pytest.raises(ValueError, match=message):
        evaluate(protocol, **named)


def test_draw_pairs():
    """All of one class, some or all of two, each once where all are taken, and the same again."""
    label = np.array([3, 1, 3, 3, 1, 7])
    left, right, same = draw_pairs(label)
    assert len({frozenset(pair) for pair in zip(left.tolist(), right.tolist(), strict=True)}) == 15
    assert (label[left] == label[right]).tolist() == same.tolist()
    assert same.sum() == 4
    left, right, same = draw_pairs(np.repeat(np.arange(40), 5), different=300)
    assert (same.sum(), (~same).sum()) == (400, 300)
    assert (left // 5 == right // 5).tolist() == same.tolist()
    again = draw_pairs(np.repeat(np.arange(40), 5), different=300)
    assert all(map(np.array_equal, again, (left, right, same)))


@pytest.mark.parametrize("label", [[1, 1, 1], [0, 1, 2], [4], []])
def test_draw_pairs_needs_both_kinds(label):
    with pytest.raises(ValueError, match="two samples of a class, and two classes"):
        draw_pairs(label)
