"""caffe-margin compare --solver: what it says, writes, refuses, and finds again."""

import base64
import contextlib
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from caffe_margin.cli import main
from helpers.points import write_all

COMMAND = ["compare", "net.prototxt", "--solver", "solver.prototxt", "--report", "page"]
VERIFIED = [*COMMAND, "--verify", "unseen.h5", "--gradient", "paper", "--seeds", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    write_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def said(place):
    """What is said while it is written."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(VERIFIED) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def page(place, said):
    """The folder of a report."""
    return place / "page"


@pytest.fixture(scope="module")
def numbers(page):
    return json.loads((page / "report.json").read_text())


class Reader(html.parser.HTMLParser):
    """Tables by id, as rows of cells; and the sources of the pictures."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.text = {}, [], ""
        self._rows = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "table":
            self._rows = self.tables[found["id"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._rows[-1].append("") if self._rows else None
        elif tag == "img":
            self.images.append(found["src"])

    def handle_data(self, data):
        self.text += data
        if self._rows and self._rows[-1]:
            self._rows[-1][-1] += data


def test_the_page_has_every_picture(page):
    seen = Reader((page / "index.html").read_text())
    pictures = {path.name: path.read_bytes() for path in page.glob("*.png")}
    assert set(pictures) == {"summary.png", "course.png", "roc.png", "cosines.png"}
    embedded = [base64.b64decode(source.partition(",")[2]) for source in seen.images]
    assert sorted(embedded) == sorted(pictures.values())


def test_the_pages_numbers_are_those_of_the_runs(page, numbers):
    """From the features that each run left, by another way than the command's."""
    table = Reader((page / "index.html").read_text()).tables["verification"]
    for name, folder in (
        ("paper", "paper"),
        ("plain softmax", "plain-softmax"),
    ):
        rates = []
        for seed in (5, 6):
            found = np.load(f"page.runs/{folder}-seed{seed}/unseen.npz")
            x, label = found["x"].astype(float), found["label"]
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            i, j = np.triu_indices(len(x), 1)
            scores, same = (unit @ unit.T)[i, j], label[i] == label[j]
            auc = stats.mannwhitneyu(scores[same], scores[~same]).statistic
            rates.append(auc / same.sum() / (~same).sum())
        row = next(row for row in table if row[0] == name)
        mean, sd = row[2].split(" ± ")
        assert float(mean) == pytest.approx(np.mean(rates), abs=5.1e-5)
        assert float(sd) == pytest.approx(np.std(rates, ddof=1), abs=5.1e-5)
        assert numbers["heads"][name]["auc"]["mean"] == pytest.approx(np.mean(rates), abs=1e-9)


def test_the_numbers_say_that_all_were_alike(numbers):
    assert numbers["seeds"] == [5, 6]
    assert [run["head"] for run in numbers["runs"][:3]] == [
        "paper",
        "modified softmax (SINGLE)",
        "plain softmax",
    ]
    for seed in (5, 6):
        runs = [run for run in numbers["runs"] if run["seed"] == seed]
        for what in ("start", "batches", "rates"):
            assert len({run[what] for run in runs}) == 1
        assert len({run["measures"]["loss"] for run in runs}) == 3


def test_it_says_how_long_and_finds_its_runs_again(page, said, capfd):
    assert re.match(r"6 runs with 72 iterations to go, \d at a time: [a-z]+ .* minute", said)
    before = {path: path.stat().st_mtime_ns for path in Path("page.runs").rglob("*")}
    assert main(VERIFIED) == 0
    out = capfd.readouterr().out
    assert "minutes" not in out
    assert re.search(r"^paper +[\d.]+ ± [\d.]+ .* %  ", out, re.M)
    assert "page/index.html" in out
    assert {path: path.stat().st_mtime_ns for path in Path("page.runs").rglob("*")} == before


def equal_error_rate(x, label):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    i, j = np.triu_indices(len(x), 1)
    scores, same = (unit @ unit.T)[i, j], label[i] == label[j]
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    return brentq(lambda t: np.interp(t, far, tar) - (1 - t), 0, 1)


def test_with_rates_and_json(page, capfd):
    """Each head's best is that of the least error by the choosing half."""
    arguments = [*COMMAND, "--verify", "unseen.h5", "--type", "L-DOUBLE", "--seeds", "1"]
    assert main([*arguments, "--report", "rates", "--rates", "1", "4", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {path.name for path in Path("rates").glob("*.png")} > {"rates.png"}
    assert [run["rate"] for run in found["tried"]] == [1, 1, 1, 4, 4, 4]
    assert set(found["at_best_rate"]) == {
        "L-DOUBLE",
        "modified softmax (SINGLE)",
        "plain softmax",
    }
    for name, best in found["at_best_rate"].items():
        by_half = {}
        for run in found["tried"]:
            if run["head"] == name:
                folder = f"{'-'.join(re.findall('[A-Za-z-]+', name))}-seed5"
                folder += "" if run["rate"] == 1 else f"-rate{run['rate']:g}"
                seen = np.load(f"rates.runs/{folder}/unseen.npz")
                chosen = seen["label"] % 2 == 1
                by_half[run["rate"]] = equal_error_rate(seen["x"][chosen], seen["label"][chosen])
                assert run["chosen_by"] == pytest.approx(by_half[run["rate"]], abs=1e-9)
        assert best["rate"] == min(by_half, key=by_half.get)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["compare", "net.prototxt", "--seeds", "2"], "--seeds is of training whole nets"),
        ([*COMMAND, "--features", "digits"], "--features is of one batch"),
        (COMMAND[:4], "give --report DIR"),
        ([*COMMAND, "--rates", "2"], "give --verify SOURCE"),
        ([*COMMAND, "--gradient", "paper", "paper"], "--gradient has one of its values twice"),
        ([*COMMAND, "--device", "meta"], "'meta' holds no numbers"),
        ([*COMMAND[:-1], "a.h5"], "a report needs a folder"),
        ([*COMMAND, "--device", "nowhere"], "nowhere"),
        ([*COMMAND, "--gradient", "newest"], "'newest' is none of exact, paper, detached"),
        ([*COMMAND, "--type", "FIVEFOLD"], "'FIVEFOLD' is none of DOUBLE"),
        ([*COMMAND[:3], "gone.prototxt", *COMMAND[4:]], "gone.prototxt"),
        ([*COMMAND, "--verify", "gone.h5", "--report", "new"], "there is no HDF5 file 'gone.h5'"),
    ],
)
def test_what_is_refused(place, capfd, arguments, why):
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    said = capfd.readouterr().err
    assert why in said
    assert "Traceback" not in said
    assert not Path("new").exists()
    assert not Path("new.runs").exists()
