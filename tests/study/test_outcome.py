"""What runs came to, against numbers that were planned, scikit-learn and scipy."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from caffe_margin.study import heads as heads_module
from caffe_margin.study.heads import Difference, Heads, Spread, choose
from caffe_margin.study.outcome import EDGES, Outcome, verify
from caffe_margin.study.whole_net import Plan
from helpers.outcomes import N, features, make_outcome, make_run, three
from helpers.points import make_net


def test_verification_is_scikit_learns():
    x, label = features(np.random.default_rng(0))
    found = verify(x, label)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    i, j = np.triu_indices(60, 1)
    scores, same = (unit @ unit.T)[i, j], label[i] == label[j]
    assert found.curve.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    fraction = [np.mean(scores[~same] >= t) - np.mean(scores[same] < t) for t in scores]
    nearest = scores[np.argmin(np.abs(fraction))]
    rough = (np.mean(scores[~same] >= nearest) + np.mean(scores[same] < nearest)) / 2
    assert found.curve.eer == pytest.approx(rough, abs=0.01)
    assert found.measures["tar_0.01"] == np.mean(
        scores[same] > np.sort(scores[~same])[-1 - int(0.01 * (~same).sum())]
    )
    assert found.same.sum() == same.sum() == 120
    assert found.different.sum() == (~same).sum()
    inside = (scores >= EDGES[70]) & (scores < EDGES[71])
    assert found.same[70] == (inside & same).sum()


def test_halves_have_no_class_in_common():
    rng = np.random.default_rng(1)
    x, label = features(rng)
    for half in (0, 1):
        chosen = label % 2 == half
        assert verify(x, label, half).curve.auc == verify(x[chosen], label[chosen]).curve.auc
    assert verify(x, label, 0).same.sum() == 60


def test_an_outcome_is_the_end_of_its_run():
    outcome = make_outcome(loss=0.75)
    assert outcome["loss"] == 0.75
    assert outcome.measures["accuracy"] == 0.25
    assert outcome.measures["eer"] == outcome.verification.curve.eer
    assert not outcome.diverged
    assert not outcome.collapsed
    np.testing.assert_array_equal(outcome.curve("loss")[[0, 99, 100, 199]], [5, 5, 0.75, 0.75])


@pytest.mark.parametrize("loss", [math.log(N) + 0.01, math.log(N) - 0.01])
def test_a_loss_at_ln_n_has_collapsed(loss):
    assert make_outcome(loss=loss).collapsed
    assert not make_outcome(loss=math.log(N) + 0.03).collapsed
    long = make_outcome(loss=loss)
    long.log["length"][:] = 1.5
    assert not long.collapsed


def test_what_ends_early_has_diverged():
    outcome = make_outcome(rows=150)
    assert outcome.diverged
    assert all(map(math.isnan, outcome.measures.values()))
    assert np.isnan(outcome.curve("loss")[150:]).all()
    assert make_outcome(loss=math.nan).diverged


def test_features_of_no_direction_have_no_verification():
    outcome = make_outcome()
    outcome.unseen[0][3] = 0
    assert outcome.verification is None
    assert "one of its features is zero" in outcome.problem
    assert not make_outcome().problem
    assert math.isnan(outcome.measures["auc"])


def test_is_read_from_what_a_run_leaves(tmp_path):
    solver = SimpleNamespace(max_iter=3)
    net = make_net(margin="QUADRUPLE")
    folder = tmp_path / "paper-seed1-rate2"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"start": "abc"}))
    lines = [[i, 2.0 * i, 5, 0.2, 0.1, 1, 1, 1, 0, f"d{i}"] for i in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    x, label = features(np.random.default_rng(0))
    np.savez(folder / "features.npz")
    np.savez(folder / "unseen.npz", x=x, label=label, source="u")
    found = Outcome.of(Plan(net, solver, "u", tmp_path), make_run(rate=2.0))
    assert found.start == "abc"
    np.testing.assert_array_equal(found.log["loss"], [2, 4, 6])
    assert (found["loss"], found.classes, found.iterations) == (4, N, 3)
    assert found.drawn is None
    np.testing.assert_array_equal(found.unseen[0], x)
    slower = [[*line[:3], 0.1, *line[4:]] for line in lines]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slower))
    other = Outcome.of(Plan(net, solver, "u", tmp_path), make_run(rate=2.0))
    assert other.batches == found.batches
    assert other.rates != found.rates


def test_spreads_are_mean_and_deviation():
    paper, exact = three("paper"), three("exact", spread=0.4)
    found = Heads((*paper, *exact)).spreads()
    rates = [outcome.verification.curve.eer for outcome in exact]
    assert found["exact"]["eer"] == Spread(np.mean(rates), np.std(rates, ddof=1), 3)
    assert found["paper"]["loss"] == Spread(1.0, 0.0, 3)


def test_a_run_that_diverged_has_no_part_in_them():
    paper, exact = three("paper"), three("exact", spread=0.3)
    exact[1] = make_outcome("exact", 2, rows=150)
    found = Heads((*paper, *exact)).spreads()["exact"]["eer"]
    rates = [exact[i].verification.curve.eer for i in (0, 2)]
    assert found == Spread(np.mean(rates), np.std(rates, ddof=1), 2)
    assert Spread.of([math.nan]).runs == 0
    difference = Difference.between(paper, exact, "eer")
    a, b = ([o[i].measures["eer"] for i in (0, 2)] for o in (paper, exact))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))


def test_a_difference_has_students_interval():
    paper, exact = three("paper"), three("exact", spread=0.3)
    found = Difference.between(paper, exact, "eer")
    a, b = ([o.measures["eer"] for o in outcomes] for outcomes in (paper, exact))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.stands == (stats.ttest_rel(a, b).pvalue < 0.05)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert not Difference.between(paper, paper, "loss").stands
    assert not Difference.between(paper[:1], exact[:1], "eer").stands


def test_differences_that_are_all_the_same_do_not_stand():
    """Rates over few pairs come in steps: that all seeds differ by one is no proof."""
    paper, exact = three("paper", loss=1.1), three("exact", loss=1.0)
    found = Difference.between(paper, exact, "loss")
    assert found.mean == pytest.approx(0.1)
    assert not found.stands


def test_runs_that_were_not_alike_are_not_compared():
    good = make_outcome("paper")
    for more, why in (
        ({"start": "x"}, "started at the same weights"),
        ({"batches": "x"}, "been fed the same batches"),
        ({"rates": "x"}, "had the same learning rates"),
    ):
        with pytest.raises(ValueError, match=f"runs of seed 1 have not {why}"):
            Heads((good, make_outcome("exact", **more)))
    Heads((good, make_outcome("exact", rows=150, batches="x")))


def test_one_half_chooses_the_rate_and_the_other_judges(monkeypatch):
    """At rate 2 the choosing half does better; what the judging half says plays no part."""
    plainly, doubled = make_outcome("paper", spread=0.6), make_outcome("paper", rate=2, spread=0.3)
    by_half = {
        (o.run.rate, half): o.verified(half).curve.eer
        for o in (plainly, doubled)
        for half in (0, 1)
    }
    assert by_half[2, heads_module.CHOOSING] < by_half[1, heads_module.CHOOSING]
    assert choose([plainly, doubled]) == {"paper": 2}
    assert choose([doubled, plainly]) == {"paper": 2}
    (best,) = Heads((plainly,), (doubled,), (plainly, doubled)).at_best_rate().values()
    assert best.rate == 2
    assert best.before["eer"].mean == by_half[1, heads_module.JUDGING]
    assert best.after["eer"].mean == by_half[2, heads_module.JUDGING]
    assert heads_module.JUDGING != heads_module.CHOOSING


def test_all_numbers_are_json():
    heads = Heads((*three("paper"), *three("exact"), *three("plain", rows=150)))
    text = json.dumps(heads.as_dict(), allow_nan=False)
    found = json.loads(text)
    assert found["heads"]["plain"]["eer"]["mean"] is None
    run = found["runs"][0]
    assert run["measures"]["auc"] == heads.outcomes[0].verification.curve.auc
    assert len(run["tar"]) == len(found["far"])
    assert len(run["same"]) == len(found["cosine_edges"]) - 1
    assert len(found["differences"]) == 2 * 3
    assert (found["iterations"], found["iterations_at_the_end"], found["classes"]) == (200, 100, N)
