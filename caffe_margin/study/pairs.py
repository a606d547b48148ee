"""Face verification: whether two images are of one person, by the protocols that are published.

A published accuracy is that of a protocol: what the features are, where the threshold comes from
and what a tie counts differ from one code to the next, and so do the numbers, on the same
features. Each function here computes what the code it names computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.floating]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.integer]

FOLDS = 10
FARS = (0.1, 0.01, 0.001)
"""The rates of false accepts at which true accepts are told."""


@dataclass(frozen=True)
class Evaluation:
    """What a protocol makes of N pairs.

    Attributes:
        protocol: its name.
        fold: the fold of each pair, (N,), from 1.
        scores: of each pair in its own fold, the higher the likelier the same, (N,).
        threshold: of each fold, found on the others, (F,).
        accuracy: of each fold's pairs at that threshold, (F,).
    """

    protocol: str
    fold: Ints
    scores: Floats
    threshold: Floats
    accuracy: Floats

    @property
    def mean_accuracy(self) -> float:
        """The mean over the folds, whatever their sizes: what is published."""
        return float(self.accuracy.mean())

    @property
    def std_accuracy(self) -> float:
        """The standard deviation over the folds, divided by their number."""
        return float(self.accuracy.std())


def evaluate(
    protocol: str,
    left: ArrayLike,
    right: ArrayLike,
    same: ArrayLike,
    fold: ArrayLike | None = None,
    left_mirror: ArrayLike | None = None,
    right_mirror: ArrayLike | None = None,
) -> Evaluation:
    """Return the accuracy of features on pairs, as one of the published codes computes it.

    >>> import numpy as np
    >>> person = np.repeat(np.eye(4), 10, axis=0)
    >>> other = np.roll(person, 10, axis=0)
    >>> left, right = np.tile(person, (2, 1)), np.vstack([person, other])
    >>> same, fold = np.repeat([True, False], 40), np.tile([1, 2], 40)
    >>> evaluate("insightface", left, right, same, fold).mean_accuracy
    1.0

    Args:
        protocol: a name of `PROTOCOLS`.
        left: features of the first images, (N, D), float32 or float64.
        right: features of the second images, (N, D).
        same: whether a pair is of one person, (N,).
        fold: of each pair, any whole numbers, (N,). None for the protocol's own: 600 pairs after
            another for ``sphereface``, ten contiguous folds for the others.
        left_mirror: features of the first images mirrored. ``sphereface`` puts them behind those
            of the images, ``insightface`` adds them, ``sphereface_pytorch`` does not look at them.
        right_mirror: features of the second images mirrored.

    Raises:
        ValueError: there is no such protocol, shapes do not agree, a feature is not finite, there
            are fewer than two folds, or the pairs of a fold, or of all others, are of one kind.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is not known; there are {', '.join(PROTOCOLS)}")
    pairs = Pairs.of(left, right, same, left_mirror, right_mirror)
    own, compute = PROTOCOLS[protocol]
    folds = own(len(pairs.same)) if fold is None else np.asarray(fold)
    return compute(pairs, _numbered(folds, pairs.same))


@dataclass(frozen=True)
class Pairs:
    """The features of N pairs, checked; see `evaluate`."""

    left: Floats
    right: Floats
    same: Bools
    left_mirror: Floats | None
    right_mirror: Floats | None

    @classmethod
    def of(
        cls,
        left: ArrayLike,
        right: ArrayLike,
        same: ArrayLike,
        left_mirror: ArrayLike | None = None,
        right_mirror: ArrayLike | None = None,
    ) -> Pairs:
        """Check the arrays. Raises ValueError as `evaluate`."""
        first = np.asarray(left)
        if first.ndim != 2 or not first.size:
            raise ValueError(f"left is {first.shape}; features are (N, D)")
        if (left_mirror is None) != (right_mirror is None):
            raise ValueError("the features of mirrored images come for both sides, or for neither")
        kinds = np.asarray(same)
        if kinds.shape != first.shape[:1]:
            raise ValueError(f"same is {kinds.shape}; for {len(first)} pairs it is ({len(first)},)")
        named = {
            "left": left, "right": right, "left_mirror": left_mirror, "right_mirror": right_mirror,
        }  # fmt: skip
        checked: dict[str, Floats | None] = {}
        for name, value in named.items():
            checked[name] = None if value is None else _features(name, value, first)
        return cls(same=kinds.astype(bool), **checked)  # type: ignore[arg-type]

    def joined(self, join: Callable[[Floats, Floats], Floats]) -> tuple[Floats, Floats]:
        """Return the features of both sides, joined with the mirrored ones where there are any."""
        if self.left_mirror is None or self.right_mirror is None:
            return self.left, self.right
        return join(self.left, self.left_mirror), join(self.right, self.right_mirror)


def _features(name: str, value: ArrayLike, like: Floats) -> Floats:
    array = np.asarray(value)
    if array.shape != like.shape:
        raise ValueError(f"{name} is {array.shape}, but left is {like.shape}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"{name}: row {row} is not finite")
    return array


def _numbered(fold: Ints, same: Bools) -> Ints:
    """Return the folds numbered from 1, each of which can be tested and has others to train on."""
    if fold.shape != same.shape:
        raise ValueError(f"fold is {fold.shape}; for {len(same)} pairs it is ({len(same)},)")
    names, number = np.unique(fold, return_inverse=True)
    if len(names) < 2:
        raise ValueError("there is one fold; a threshold is found on the others")
    for i, name in enumerate(names):
        kinds = same[number == i]
        if kinds.all() or not kinds.any():
            kind = "the same person" if kinds.all() else "different people"
            raise ValueError(f"all {len(kinds)} pairs of fold {name} are of {kind}")
    return number + 1


def cosine(left: Floats, right: Floats) -> Floats:
    """Return the cosine of each pair, in double; NaN where a feature is zero.

    >>> cosine(np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]]))
    array([0.8])
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore"):
        return np.einsum("nd,nd->n", left, right) / norms


# wy1iu/sphereface, test/code/evaluation.m.

SPHEREFACE_THRESHOLDS = np.arange(-10000, 10001) / 10000


def _sphereface(pairs: Pairs, fold: Ints) -> Evaluation:
    """The mean of the other folds' features is subtracted; a tie with the threshold is wrong."""
    left, right = pairs.joined(lambda image, mirror: np.hstack([image, mirror]))
    left, right = left.astype(np.float64), right.astype(np.float64)
    thresholds, accuracies, scores = [], [], np.empty(len(fold))
    for i in range(1, fold.max() + 1):
        test, train = fold == i, fold != i
        mean = np.vstack([left[train], right[train]]).mean(axis=0)
        score = cosine(left - mean, right - mean)
        right_at = _right_between(score[train], pairs.same[train], SPHEREFACE_THRESHOLDS)
        # All of the best, adjoining or not.
        threshold = SPHEREFACE_THRESHOLDS[right_at == right_at.max()].mean()
        right_now = _right_between(score[test], pairs.same[test], np.array([threshold]))[0]
        thresholds.append(threshold)
        accuracies.append(right_now / test.sum())
        scores[test] = score[test]
    return Evaluation("sphereface", fold, scores, np.array(thresholds), np.array(accuracies))


def _right_between(score: Floats, same: Bools, thresholds: Floats) -> Ints:
    """Count the same pairs above each threshold, and the different ones below."""
    return _above(score[same], thresholds) + _below(score[~same], thresholds)


def _above(score: Floats, thresholds: Floats) -> Ints:
    known = np.sort(score[~np.isnan(score)])
    return len(known) - np.searchsorted(known, thresholds, side="right")


def _below(score: Floats, thresholds: Floats) -> Ints:
    known = np.sort(score[~np.isnan(score)])
    return np.searchsorted(known, thresholds, side="left")


# clcarwin/sphereface_pytorch, lfw_eval.py.

SPHEREFACE_PYTORCH_THRESHOLDS = np.arange(-1.0, 1.0, 0.005)


def _sphereface_pytorch(pairs: Pairs, fold: Ints) -> Evaluation:
    """The cosine of the images alone; the last of the best thresholds."""
    left, right = pairs.left, pairs.right
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    exact = np.einsum("nd,nd->n", left, right) / (norms + left.dtype.type(1e-5))
    # They pass through text, with the twelve digits that Python 2 wrote.
    scores = np.array([float(f"{score:.12g}") for score in exact.astype(np.float64)])

    def right_at(some: Bools, thresholds: Floats) -> Ints:
        score, same = scores[some], pairs.same[some]
        return _above(score[same], thresholds) + (~same).sum() - _above(score[~same], thresholds)

    found = _found_on_others(fold, SPHEREFACE_PYTORCH_THRESHOLDS, right_at, which=-1)
    return Evaluation("sphereface_pytorch", fold, scores, *found)


def _found_on_others(
    fold: Ints, tried: Floats, right_at: Callable[[Bools, Floats], Ints], which: int
) -> tuple[Floats, Floats]:
    """Return each fold's threshold, found on the others, and its accuracy there, (F,) each.

    Args:
        fold: of each pair, from 1.
        tried: the thresholds to choose from, rising.
        right_at: from some pairs and T thresholds to how many of them are right at each, (T,).
        which: of those that reach the best accuracy.
    """
    thresholds, accuracies = [], []
    for i in range(1, fold.max() + 1):
        right = right_at(fold != i, tried)
        threshold = tried[np.flatnonzero(right == right.max())[which]]
        thresholds.append(threshold)
        accuracies.append(right_at(fold == i, np.array([threshold]))[0] / (fold == i).sum())
    return np.array(thresholds), np.array(accuracies)


# deepinsight/insightface, recognition/arcface_torch/eval/verification.py.

INSIGHTFACE_THRESHOLDS = np.arange(0, 4, 0.01)


def insightface_distance(pairs: Pairs) -> Floats:
    """Return the squared distance of the unit features of each pair, 0 to 4."""
    left, right = pairs.joined(np.add)
    return np.square(_unit(left) - _unit(right)).sum(axis=1)


def _unit(features: Floats) -> Floats:
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norm == 0, 1, norm)


def _insightface(pairs: Pairs, fold: Ints) -> Evaluation:
    """The distance of image plus mirror; the first of the best thresholds."""
    distance = insightface_distance(pairs)

    def right_at(some: Bools, thresholds: Floats) -> Ints:
        d, same = distance[some], pairs.same[some]
        return _below(d[same], thresholds) + (~same).sum() - _below(d[~same], thresholds)

    found = _found_on_others(fold, INSIGHTFACE_THRESHOLDS, right_at, which=0)
    return Evaluation("insightface", fold, -distance, *found)


def insightface_val_at_far(
    pairs: Pairs, fold: ArrayLike | None = None, far: float = 0.001
) -> NDArray[np.float64]:
    """Return insightface's VAL at a FAR: of each fold the threshold, VAL and FAR, (F, 3).

    The threshold is found on the other folds, by a straight line over the staircase of FAR from
    the last point that is not above ``far`` to the next; 0 where FAR never gets there.
    """
    folds = contiguous_folds(len(pairs.same)) if fold is None else np.asarray(fold)
    number = _numbered(folds, pairs.same)
    distance, grid = insightface_distance(pairs), np.arange(0, 4, 0.001)
    rows = []
    for i in range(1, number.max() + 1):
        test, train = number == i, number != i
        different = distance[train & ~pairs.same]
        rates = _below(different, grid) / len(different)
        threshold = 0.0
        if rates.max() >= far:
            last = int(np.flatnonzero(rates <= far)[-1])
            after = min(last + 1, len(grid) - 1)
            slope = (grid[after] - grid[last]) / max(rates[after] - rates[last], 1e-300)
            threshold = grid[last] + slope * (far - rates[last])
        near = distance < threshold
        rows.append((threshold, near[test & pairs.same].mean(), near[test & ~pairs.same].mean()))
    return np.array(rows)


# Folds.


def sphereface_folds(pairs: int) -> Ints:
    """600 pairs a fold, as LFW has them. Source: parseList of evaluation.m."""
    return np.arange(pairs) // 600 + 1


def contiguous_folds(pairs: int) -> Ints:
    """Ten folds, the first ones longer by one where they do not come out even.

    Source: scikit-learn's KFold without shuffling.
    """
    return np.repeat(np.arange(FOLDS), _sizes(pairs)) + 1


def _sizes(pairs: int) -> Ints:
    return pairs // FOLDS + (np.arange(FOLDS) < pairs % FOLDS)


def _floor_folds(pairs: int) -> Ints:
    """Ten folds from i n // 10 to (i + 1) n // 10. Source: KFold of lfw_eval.py."""
    ends = np.arange(1, FOLDS + 1) * pairs // FOLDS
    return np.searchsorted(ends, np.arange(pairs), side="right") + 1


PROTOCOLS: dict[str, tuple[Callable[[int], Ints], Callable[[Pairs, Ints], Evaluation]]] = {
    "sphereface": (sphereface_folds, _sphereface),
    "sphereface_pytorch": (_floor_folds, _sphereface_pytorch),
    "insightface": (contiguous_folds, _insightface),
}
"""For each published code the folds it makes itself, and what it computes."""


# Without folds.


@dataclass(frozen=True)
class Curve:
    """What all thresholds make of scores: scikit-learn's ROC curve, and what is read off it.

    Attributes:
        fpr: the rate of false accepts, rising from 0 to 1, (T,).
        tpr: the rate of true accepts, (T,).
        thresholds: a pair is said to be the same at or above it, falling from infinity, (T,).
        auc: the area under the curve.
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats
    auc: float

    @property
    def eer(self) -> float:
        """The equal error rate: where the straight-line curve meets fpr = 1 - tpr."""
        gap = self.fpr - (1 - self.tpr)
        after = int(np.argmax(gap >= 0))
        if gap[after] == 0 or after == 0:
            return float(self.fpr[after])
        share = gap[after - 1] / (gap[after - 1] - gap[after])
        return float(self.fpr[after - 1] + share * (self.fpr[after] - self.fpr[after - 1]))

    def tar_at(self, far: float) -> float:
        """The largest rate of true accepts with no more false ones than ``far``."""
        return float(self.tpr[self.fpr <= far].max())


def roc(scores: ArrayLike, same: ArrayLike) -> Curve:
    """Return the ROC curve of scores, the higher the likelier the same.

    >>> curve = roc([0.9, 0.8, 0.3, 0.1], [True, False, True, False])
    >>> curve.auc, curve.eer, curve.tar_at(0.1)
    (0.75, 0.5, 0.5)

    Raises:
        ValueError: a score is NaN, or the pairs are of one kind.
    """
    from sklearn.metrics import auc, roc_curve

    kinds, values = np.asarray(same, bool), np.asarray(scores, np.float64)
    if kinds.all() or not kinds.any():
        raise ValueError("a curve needs pairs of the same person and of different people")
    if np.isnan(values).any():
        row = int(np.flatnonzero(np.isnan(values))[0])
        raise ValueError(f"the score of pair {row} is NaN: one of its features is zero")
    fpr, tpr, thresholds = roc_curve(kinds, values, drop_intermediate=False)
    return Curve(fpr, tpr, thresholds, float(auc(fpr, tpr)))


def draw_pairs(
    label: ArrayLike, different: int = 500_000, seed: int = 0
) -> tuple[Ints, Ints, Bools]:
    """Return pairs of samples: all of one class, and some of those of two.

        >>> left, right, same = draw_pairs([0, 0, 1], different=2)
        >>> sorted(zip(left.tolist(), right.tolist(), same.tolist()))
        [(0, 1, True), (0, 2, False), (1, 2, False)]

    Args:
        label: the class of each sample, (N,).
        different: how many pairs of two classes at most; all, where there are no more.
        seed: says which.

    Raises:
        ValueError: all pairs are of one kind.
    """
    labels = np.asarray(label)
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [group for group in np.split(order, ends) if len(group) > 1]
    if not groups or not len(ends):
        raise ValueError("verification needs two samples of a class, and two classes")
    of_one = [group[np.array(np.triu_indices(len(group), 1))] for group in groups]
    left, right = np.concatenate(of_one, axis=1)
    total = len(labels) * (len(labels) - 1) // 2
    if total - len(left) <= different:
        i, j = np.triu_indices(len(labels), 1)
        apart = labels[i] != labels[j]
        others = np.stack([i[apart], j[apart]])
    else:
        rng = np.random.default_rng(seed)
        i, j = rng.integers(len(labels), size=(2, 4 * different))
        apart = labels[i] != labels[j]
        others = np.stack([i[apart], j[apart]])[:, :different]
    same = np.repeat([True, False], [len(left), others.shape[1]])
    return np.append(left, others[0]), np.append(right, others[1]), same
