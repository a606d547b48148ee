"""The pictures of whole nets: that what is drawn is where its numbers are."""

import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from caffe_margin.report.heads_figures import heads_figures, lines_of, summary
from caffe_margin.study.heads import Heads
from helpers.outcomes import make_outcome, three


def line(ax, label):
    return next(x for x in ax.lines if x.get_label() == label)


def test_a_line_is_the_mean_over_the_seeds():
    paper = [make_outcome("paper", seed, loss=seed) for seed in (1, 2, 3)]
    heads = Heads((*paper, *three("exact")))
    loss, _, rates = summary(heads, lines_of(heads)).axes
    drawn = line(loss, "paper")
    np.testing.assert_allclose(drawn.get_ydata()[[0, 99, 100, 199]], [5, 5, 2, 2])
    np.testing.assert_allclose(drawn.get_xdata()[[0, 199]], [0.5, 199.5])
    band = loss.collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == 199.5][:, 1]
    assert (at_end.min(), at_end.max()) == (1, 3)
    dots = rates.lines[0].get_xdata()
    np.testing.assert_allclose(dots, [100 * outcome.measures["eer"] for outcome in paper])
    assert rates.lines[1].get_xdata()[0] == pytest.approx(np.mean(dots))


def test_what_diverged_is_drawn_to_its_end_and_is_in_no_mean():
    ended = make_outcome("paper", 2, loss=80, rows=150)
    heads = Heads((make_outcome("paper", 1), ended, make_outcome("exact", 1)))
    loss = summary(heads, lines_of(heads)).axes[0]
    np.testing.assert_allclose(line(loss, "paper").get_ydata()[199], 1)
    alone = next(x for x in loss.lines if len(x.get_xdata()) == 150)
    assert alone.get_ydata()[-1] == 80
    assert alone.get_color() == line(loss, "paper").get_color()
    assert loss.get_ylim()[1] < 6


def test_all_that_diverged_is_drawn():
    heads = Heads(tuple(make_outcome("paper", seed, rows=150) for seed in (1, 2)))
    assert set(heads_figures(heads)) == {"summary", "course"}


def test_there_is_a_picture_of_what_there_is():
    outcomes = [make_outcome("paper"), make_outcome("exact")]
    heads = Heads(tuple(outcomes))
    assert set(heads_figures(heads)) == {"summary", "course", "roc", "cosines"}
    tuned = [make_outcome("paper", rate=2), make_outcome("exact", rate=0.5)]
    tried = (*outcomes, *tuned)
    drawn = heads_figures(Heads(tuple(outcomes), tuple(tuned), tried))
    (ax,) = drawn["rates"].axes
    found = {x.get_label(): (list(x.get_xdata()), list(x.get_ydata())) for x in ax.lines}
    assert found["exact"][0] == [0.5, 1]
    assert found["paper"][1] == [100 * o.measures["eer"] for o in (tried[0], tried[2])]


def test_features_of_two_numbers_are_drawn():
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((40, 2)), np.arange(40) % 8, rng.standard_normal((8, 2))
    heads = Heads((make_outcome("paper", drawn=drawn),))
    assert "features" in heads_figures(heads)


def test_roc_is_the_mean_of_the_rates():
    paper = three("paper")
    (ax,) = heads_figures(Heads(tuple(paper)))["roc"].axes
    far, tar = line(ax, "paper").get_data()
    i = int(np.argmin(np.abs(far - 0.01)))
    expected = np.mean([outcome.verification.curve.tar_at(far[i]) for outcome in paper])
    assert math.isclose(tar[i], expected)


def test_histograms_are_shares_of_the_pairs():
    figure = heads_figures(Heads((make_outcome("paper"), make_outcome("exact"))))["cosines"]
    for patch in figure.axes[0].patches:
        assert patch.get_data().values.sum() == pytest.approx(100)
