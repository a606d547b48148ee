import base64
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from caffe_margin.cli import main

pytest.importorskip("matplotlib")
from caffe_margin.maths.gradient import EXACT
from caffe_margin.report import figures
from caffe_margin.study.training import Training, TrainingRun

M, N, K = 9, 4, 6
LAMBDA = 50 / (1 + 0.5 * 18)
NET = f"""
    layer {{ name: "fc<6>" type: "MarginInnerProduct" bottom: "x" bottom: "label" top: "fc"
             margin_inner_product_param {{ num_output: {N} type: QUADRUPLE base: 50 gamma: 0.5
                                           power: 1 lambda_min: 2 iteration: 3
                                           weight_filler {{ type: "xavier" }} }} }}
"""
PICTURES = [
    "annealing",
    "check",
    "coeff_norm",
    "departures",
    "descent",
    "psi",
    "pull",
    "training",
]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(N, K))
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    return 3 * rng.normal(size=(M, K)), np.arange(M) % N, weight


@pytest.fixture(scope="module")
def files(tmp_path_factory, batch):
    folder = tmp_path_factory.mktemp("inputs")
    x, label, weight = batch
    np.savez(folder / "batch.npz", x=x, label=label, weight=weight)
    (folder / "net.prototxt").write_text(NET)
    return folder


def arguments(files, report, *more):
    net, features = str(files / "net.prototxt"), str(files / "batch.npz")
    return [
        "compare",
        net,
        "--features",
        features,
        "--iteration",
        "18",
        "--report",
        str(report),
        *more,
    ]


@pytest.fixture(scope="module")
def drawn():
    """The figures by name, once `report` has drawn them."""
    return {}


@pytest.fixture(scope="module")
def report(files, drawn, tmp_path_factory):
    draw = figures.figures

    def keep(study):
        drawn.update(draw(study))
        return drawn

    folder = tmp_path_factory.mktemp("out") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caffe_margin.report.figures.figures", keep)
        assert main(arguments(files, folder, "--train", "5")) == 0
    return folder


class Page(html.parser.HTMLParser):
    """Collects the tables by their id, and the sources of the pictures."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.sources, self.tags = {}, [], []
        self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.rows = self.tables[attributes["id"]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag == "img":
            self.sources.append(attributes["src"])
        elif tag == "sup" and self._cell is not None:
            self._cell += "^"

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None


def number(text):
    """Read what the page shows: 1.23, 4.56°, 78.9% and 1.2 x 10^-3, its minus a minus sign."""
    text = text.replace("\N{MINUS SIGN}", "-").removesuffix("\N{DEGREE SIGN}").removesuffix("%")
    return float(text.replace(" \N{MULTIPLICATION SIGN} 10^", "e"))


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "index.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def numbers(report):
    return json.loads((report / "report.json").read_text("utf-8"))


# What follows is computed from the definitions, with nothing of caffe_margin in it.


def loss(x, label, weight):
    length = np.linalg.norm(x, axis=1)
    cosine = x @ weight.T / length[:, None] / np.linalg.norm(weight, axis=1)
    rows = np.arange(len(x))
    theta = np.arccos(cosine[rows, label])
    k = np.floor(4 * theta / np.pi)
    psi = (-1) ** k * np.cos(4 * theta) - 2 * k
    scores = cosine.copy()
    scores[rows, label] = (psi + LAMBDA * np.cos(theta)) / (1 + LAMBDA)
    scores *= length[:, None]
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[rows, label]), scores


def gradient(function, at, h=1e-6):
    result = np.empty_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = h
        result[index] = (function(at + step) - function(at - step)) / (2 * h)
    return result


@pytest.fixture(scope="module")
def by_definition(batch):
    """Return theta, loss, and both gradients under both rules; the paper's as its C++ has it."""
    x, label, weight = batch
    value, scores = loss(x, label, weight)
    exact = {
        "bottom": gradient(lambda at: loss(at, label, weight)[0], x),
        "weight": gradient(lambda at: loss(x, label, at)[0], weight),
    }
    prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    g = (prob - np.eye(N)[label]) / M
    own, length = weight[label], np.linalg.norm(x, axis=1)
    c = np.einsum("ik,ik->i", x, own) / length
    theta = np.arccos(c)
    k = np.floor(4 * theta / np.pi)
    coeff_w = (-1) ** k * 4 * np.sin(4 * theta) / np.sin(theta)
    coeff_x = ((-1) ** k * np.cos(4 * theta) - 2 * k - c * coeff_w) / length
    norm = np.sqrt(coeff_w**2 + coeff_x**2)
    pull = {
        rule: ((coeff_w / by + LAMBDA)[:, None] * own + (coeff_x / by)[:, None] * x) / (1 + LAMBDA)
        for rule, by in (("exact", 1), ("paper", norm))
    }
    g_own = g[np.arange(M), label][:, None]
    paper = {"bottom": g @ weight + g_own * (pull["paper"] - own), "weight": g.T @ x}
    return {
        "theta": theta,
        "loss": value,
        "exact": exact,
        "paper": paper,
        "pull": pull,
        "norm": norm,
    }


def angle_between(a, b):
    return np.degrees(np.arccos(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)))


def test_the_layer(page, numbers, by_definition):
    shown = dict(page.tables["layer"])
    assert shown["layer"] == "fc<6>"
    assert shown["type"] == "QUADRUPLE, m = 4"
    assert (shown["classes N"], shown["features K"]) == (str(N), str(K))
    assert number(shown["λ"]) == pytest.approx(LAMBDA, rel=5e-4)
    assert number(shown["loss"].split()[0]) == pytest.approx(by_definition["loss"], rel=5e-4)
    assert numbers["comparison"]["loss"] == pytest.approx(by_definition["loss"], rel=1e-9)
    at = numbers["annealing"]
    np.testing.assert_allclose(
        at["lambda"], np.maximum(50 / (1 + 0.5 * np.array(at["iteration"])), 2), rtol=1e-6
    )
    assert at["iteration"][0] == 4
    assert 18 in at["iteration"]


def test_psi(numbers):
    theta = np.array(numbers["psi"]["theta"])
    for m, psi, mixed in zip(
        (1, 2, 3, 4), numbers["psi"]["psi"], numbers["psi"]["mixed"], strict=True
    ):
        # Not at the ends of the pieces, where rounding puts k on either side.
        inside = np.abs(m * theta / np.pi - np.round(m * theta / np.pi)) > 1e-9
        k = np.floor(m * theta / np.pi)
        expected = (-1) ** k * np.cos(m * theta) - 2 * k
        np.testing.assert_allclose(np.array(psi)[inside], expected[inside], atol=1e-12)
        expected = (expected + LAMBDA * np.cos(theta)) / (1 + LAMBDA)
        np.testing.assert_allclose(np.array(mixed)[inside], expected[inside], atol=1e-6)


def test_samples(page, numbers, by_definition):
    pulls = numbers["pulls"]
    np.testing.assert_allclose(pulls["theta"], by_definition["theta"], rtol=1e-9)
    np.testing.assert_allclose(pulls["coeff_norm"], by_definition["norm"], rtol=1e-9)
    lengths = {rule: np.linalg.norm(p, axis=1) for rule, p in by_definition["pull"].items()}
    angles = [
        angle_between(a, b)
        for a, b in zip(by_definition["pull"]["paper"], by_definition["pull"]["exact"], strict=True)
    ]
    expected = [
        np.degrees(by_definition["theta"]),
        np.array(pulls["x_norm"]),
        lengths["exact"],
        lengths["paper"],
        np.array(angles),
        by_definition["norm"],
    ]
    for row, values in zip(page.tables["samples"][1:], expected, strict=True):
        shown = [number(cell) for cell in row[1:]]
        found = [values.min(), np.median(values), values.max()]
        np.testing.assert_allclose(shown, found, rtol=5e-4, atol=5.1e-3 if "°" in row[1] else 0)


@pytest.mark.parametrize("blob", ["bottom", "weight"])
@pytest.mark.parametrize("rule", ["paper", "exact"])
def test_departures(page, by_definition, blob, rule):
    found, exact = by_definition[rule][blob], by_definition["exact"][blob]
    rows = {row[0]: [number(cell) for cell in row[1:]] for row in page.tables[f"{blob}_diff"][1:]}
    length, ratio, angle, difference = rows[rule]
    assert length == pytest.approx(np.linalg.norm(found), rel=5e-4)
    assert ratio == pytest.approx(np.linalg.norm(found) / np.linalg.norm(exact), rel=5e-4)
    if rule == "exact":
        assert (angle, difference) == (0, 0)
    else:
        assert angle == pytest.approx(angle_between(found, exact), abs=6e-3)
        expected = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert difference == pytest.approx(expected, rel=5e-4)


def test_check(page):
    rows = {row[0]: row[1:] for row in page.tables["checks"][1:]}
    for blob, directions in (("bottom", M), ("weight", N)):
        for rule, verdict in (("exact", "passes"), ("paper", "fails")):
            count, _, largest, shown = rows[f"{rule}, {blob}.diff"]
            assert int(count) == directions
            assert shown == verdict
            assert (number(largest) < 1e-6) == (rule == "exact")


@pytest.mark.parametrize("blob", ["bottom", "weight"])
@pytest.mark.parametrize("rule", ["paper", "exact"])
def test_descent(page, numbers, batch, by_definition, blob, rule):
    x, label, weight = batch
    moves = {"bottom": x, "weight": weight}[blob]
    unit = -by_definition[rule][blob]
    unit *= np.linalg.norm(moves) / np.linalg.norm(unit)

    def after(step):
        at = {"bottom": x, "weight": weight} | {blob: moves + step * unit}
        return loss(at["bottom"], label, at["weight"])[0]

    (walk,) = (d for d in numbers["descents"] if (d["rule"], d["blob"]) == (rule, blob))
    np.testing.assert_allclose(walk["loss"], [after(step) for step in walk["steps"]], rtol=1e-5)
    (row,) = (row for row in page.tables["descents"] if row[0] == f"{rule}, {blob}.diff")
    slope, step, lowest = (number(cell) for cell in row[1:4])
    assert slope == pytest.approx(np.vdot(by_definition["exact"][blob], unit), rel=5e-4)
    assert lowest == pytest.approx(after(step), rel=2e-3, abs=1e-6)
    assert lowest == pytest.approx(min(map(after, walk["steps"])), rel=5e-4, abs=1e-6)


def test_training(page, numbers, batch, by_definition):
    runs = {run["name"]: run for run in numbers["training"]["runs"]}
    assert len(runs) == 7
    assert runs["paper"]["iterations"] == [0, 1, 2, 3, 4, 5]
    assert runs["exact"]["loss"][0] == pytest.approx(by_definition["loss"], rel=1e-6)
    for row in page.tables["runs"][1:]:
        run = runs[row[0]]
        assert number(row[1]) == pytest.approx(run["loss"][-1], rel=5e-4)
        assert number(row[2]) == pytest.approx(100 * run["accuracy"][-1], abs=5.1e-3)
        assert number(row[3]) == pytest.approx(np.degrees(run["own_angle"][-1]), abs=5.1e-3)


def test_the_page_is_whole(report, page):
    assert sorted(path.name for path in report.iterdir()) == sorted(
        ["index.html", "report.json", *(f"{name}.png" for name in PICTURES)]
    )
    embedded = [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in page.sources]
    assert sorted(embedded) == sorted((report / f"{name}.png").read_bytes() for name in PICTURES)
    assert all(data.startswith(b"\x89PNG\r\n") for data in embedded)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        assert not str(attributes.get("src", "data:")).startswith("http")
    text = (report / "index.html").read_text("utf-8")
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "fc<6>" not in text


def test_every_axis_has_a_title(report, drawn):
    assert sorted(drawn) == PICTURES
    for figure in drawn.values():
        for ax in figure.axes:
            grid = ax.get_subplotspec()
            assert grid is None or not grid.is_last_row() or ax.get_xlabel()
            named = ax.get_ylabel() or [label.get_text() for label in ax.get_yticklabels()]
            assert grid is None or not grid.is_first_col() or named


def assert_legends_fit(drawn):
    """Within the picture, and beside the data."""
    for figure in drawn.values():
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        for ax in figure.axes:
            assert ax.get_legend() is None
            assert not box.overlaps(ax.get_window_extent())


def test_legends_fit(report, drawn):
    assert_legends_fit(drawn)


@pytest.mark.parametrize("type_", ["SINGLE", "TRIPLE"])
def test_other_margins_without_lambda(tmp_path, files, type_, capsys):
    net = tmp_path / "net.prototxt"
    net.write_text(
        NET.replace("QUADRUPLE", type_)
        .replace("base: 50", "base: 0")
        .replace("lambda_min: 2", "lambda_min: 0")
    )
    features, out = str(files / "batch.npz"), tmp_path / "report"
    assert main(["compare", str(net), "--features", features, "--report", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "index.html")
    numbers = json.loads((out / "report.json").read_text("utf-8"))
    assert numbers["training"] is None
    checks = {(c["rule"], c["blob"]): c["passes"] for c in numbers["checks"]}
    assert checks["exact", "bottom"]
    assert checks["exact", "weight"]
    assert checks["paper", "bottom"] == (type_ == "SINGLE")
    assert not checks["paper", "weight"]


def test_a_former_report_is_replaced_and_strangers_are_not(files, tmp_path, capsys):
    out = tmp_path / "report"
    out.mkdir()
    (out / "training.png").touch()
    (out / "report.json").write_text(
        '{"made_by": "caffe-margin 1.0", "files": ["report.json", "training.png"]}'
    )
    assert main(arguments(files, out, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out / "index.html")
    assert not (out / "training.png").exists()
    (out / "notes.txt").touch()
    assert main(arguments(files, out)) == 2
    error = capsys.readouterr().err
    assert str(out) in error
    assert "holds 'notes.txt'" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("after", [1, 3])
def test_a_disk_that_fills_leaves_nothing(files, tmp_path, capsys, monkeypatch, after):
    written = []

    def save(figure, path):
        written.append(path)
        if len(written) == after:
            raise OSError(28, "No space left on device")
        figures.save(figure, path)

    monkeypatch.setattr("caffe_margin.report.page.save", save)
    assert main(arguments(files, tmp_path / "report")) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "report") in error
    assert error.endswith("No space left on device\n")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no signals")
def test_a_killed_run_is_no_end_of_the_folder(report, files, tmp_path):
    out = shutil.copytree(report, tmp_path / "report")
    former = (out / "index.html").read_bytes()
    program = (
        "import os, sys\nfrom caffe_margin.cli import main\nfrom caffe_margin.report import page\n"
        f"page.save = lambda *_: os.kill(os.getpid(), {int(signal.SIGTERM)})\nmain(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments(files, out)])
    assert done.returncode == -signal.SIGTERM
    assert (out / "index.html").read_bytes() == former
    assert len([path for path in out.iterdir() if path.name.startswith(".")]) == 1
    assert main(arguments(files, out)) == 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("matplotlib", "pictures need matplotlib, which is not installed"),
        ("jinja2", "the page needs Jinja2, which is not installed"),
    ],
)
def test_without_what_draws_the_page(files, tmp_path, module, said):
    program = (
        f"import sys\nsys.modules[{module!r}] = None\n"
        "from caffe_margin.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments(files, tmp_path / "report")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 2
    assert done.stderr == f"caffe-margin: {said}: pip install 'caffe_margin[report]'\n"
    assert list(tmp_path.iterdir()) == []


def test_training_needs_a_page(files, capsys):
    net, features = str(files / "net.prototxt"), str(files / "batch.npz")
    assert main(["compare", net, "--features", features, "--train", "5"]) == 2
    assert "--report" in capsys.readouterr().err


def test_digits_have_ten_classes(files, tmp_path, capsys):
    pytest.importorskip("sklearn")
    net = tmp_path / "net.prototxt"
    net.write_text(NET.replace(f"num_output: {N}", "num_output: 99"))
    assert main(["compare", str(net), "--features", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["M"], found["N"], found["K"]) == (1797, 10, 64)
    assert "handwritten digits" in found["features"]
    assert found["weight"].endswith("for the 10 classes of the labels: the net has 99")


@pytest.mark.parametrize(
    ("label", "classes"),
    [([0, 1, 2], 3), ([0, 0, 0], 9), ([0, 2, 2], 9), ([1, 2, 3], 9), ([0.5, 1, 2], 9)],
)
def test_classes_of_the_labels(tmp_path, capsys, label, classes):
    net, features = tmp_path / "net.prototxt", tmp_path / "batch.npz"
    net.write_text(NET.replace(f"num_output: {N}", "num_output: 9"))
    np.savez(features, x=np.eye(3, K) + 0.1, label=np.array(label))
    assert main(["compare", str(net), "--features", str(features), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["N"] == classes


def report_of(tmp_path, capsys, net, *more, **arrays):
    """Return the page on the arrays as one line of text, without what the pictures hold."""
    (tmp_path / "net.prototxt").write_text(net)
    np.savez(tmp_path / "batch.npz", **arrays)
    out = tmp_path / "report"
    features = str(tmp_path / "batch.npz")
    net = str(tmp_path / "net.prototxt")
    assert main(["compare", net, "--features", features, "--report", str(out), *more]) == 0
    capsys.readouterr()
    text = re.sub(r"base64,[^\"]*", "", (out / "index.html").read_text("utf-8"))
    return " ".join(text.split())


@pytest.mark.parametrize("classes", [1, 5])
def test_a_gradient_of_zero_is_called_that(tmp_path, capsys, classes):
    net = NET.replace(f"num_output: {N}", f"num_output: {classes}").replace("fc<6>", "fc")
    label = np.arange(10) % classes
    text = report_of(
        tmp_path,
        capsys,
        net.replace("lambda_min: 2", "lambda_min: 0"),
        x=1000 * np.eye(5)[label],
        label=label,
        weight=np.eye(5)[:classes],
    )
    assert "paper's and exact bottom.diff are zero" in text
    assert "paper's and exact weight.diff are zero" in text
    assert text.count("goes nowhere, for that is zero") == 4
    rows = Page(text).tables["descents"][1:]
    assert all(row[1] == "gradient is zero" for row in rows)
    assert all(row[-1] == "passes" for row in Page(text).tables["checks"][1:])


def test_a_step_that_barely_lowers_the_loss(tmp_path, capsys, batch):
    x, label, weight = batch
    text = report_of(tmp_path, capsys, NET, x=1e-7 * x, label=label, weight=weight)
    assert "from a loss of 1.386: " in text
    assert "it to 1.386" not in text
    assert re.search(r"lowers it by \d.* &times; 10<sup>&minus;", text)
    # So short a batch goes down along every step there is.
    assert "at the longest step measured, 10 times what moves" in text
    assert "10 (longest)" in text


def lines_of(ax):
    """Return how each line is drawn, but for its colour and the one that spans the axes."""
    return [
        (line._unscaled_dash_pattern, line.get_marker())
        for line in ax.lines
        if line.get_label() != "before the step"
    ]


@pytest.mark.parametrize("name", ["descent", "training"])
def test_no_two_lines_differ_by_colour_alone(report, drawn, name):
    for ax in drawn[name].axes:
        shown = lines_of(ax)
        for i, line in enumerate(shown):
            assert line not in shown[:i]
    dashes = [dash for dash, _ in lines_of(drawn["descent"].axes[0])]
    assert all(dash not in dashes[:i] for i, dash in enumerate(dashes))


def test_few_powers_on_the_colour_bar(tmp_path, monkeypatch, capsys, batch):
    drawn, make = {}, figures.figures

    def keep(study):
        drawn.update(make(study))
        return drawn

    monkeypatch.setattr("caffe_margin.report.figures.figures", keep)
    x, label, weight = batch
    report_of(tmp_path, capsys, NET, x=1e-6 * x, label=label, weight=weight)
    bar = drawn["coeff_norm"].axes[1]
    low, high = bar.get_ylim()
    assert 5 <= sum(low <= tick <= high for tick in bar.get_yticks()) <= 15


def test_reference_lines_lie_above_the_grid(report, drawn):
    for name in ("check", "descent", "departures"):
        (line,) = (
            line
            for line in drawn[name].axes[1].lines
            if line.get_color() in (figures.BLACK, figures.GREY) and line.get_linewidth() == 1
        )
        assert line.get_zorder() > 0.5


def test_a_training_that_diverges(files, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(arguments(files, out, "--train", "3", "--lr", "1e30", "--dtype", "float32")) == 2
    error = capsys.readouterr().err
    assert "training under 'exact' diverged at iteration 1: lower" in error
    assert "--lr" in error
    assert not out.exists()


def test_no_folder_is_no_page(files, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments(files, ""))
    assert "--report: an empty string is no name of a file" in capsys.readouterr().err


def test_a_zero_row_is_named(tmp_path, files, batch, capsys):
    x, label, weight = batch
    x = x.copy()
    x[4] = 0
    np.savez(tmp_path / "zero.npz", x=x, label=label, weight=weight)
    net, out = str(files / "net.prototxt"), str(tmp_path / "report")
    features = str(tmp_path / "zero.npz")
    assert main(["compare", net, "--features", features, "--report", out]) == 2
    assert "row 4" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["zero.npz"]


@pytest.mark.parametrize(("looks", "is_cut"), [(9, False), (20, True)])
def test_a_training_figure_says_what_its_axes_leave_out(looks, is_cut):
    falling = np.geomspace(100, 1, looks)
    run = TrainingRun("exact", EXACT, np.arange(looks), *[falling] * 5)
    figure = figures.training(Training((run,), 9, 0.1, 0.9, 0.0, 1, (5.0, 5.0)))
    assert ("first tenth" in figure.get_supxlabel()) == is_cut
    assert (figure.axes[0].get_ylim()[1] < 100) == is_cut


# L-Softmax


def large_loss(x, label, weight):
    length = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(weight, axis=1)
    scores, rows = x @ weight.T, np.arange(len(x))
    theta = np.arccos((scores / length)[rows, label])
    k = np.floor(4 * theta / np.pi)
    psi = (-1) ** k * np.cos(4 * theta) - 2 * k
    own = length[rows, label] * (psi + LAMBDA * np.cos(theta)) / (1 + LAMBDA)
    scores[rows, label] = own
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - own)


def test_page_of_large_margin(tmp_path, monkeypatch, capsys, batch):
    drawn, make = {}, figures.figures
    monkeypatch.setattr(figures, "figures", lambda study: drawn.update(make(study)) or drawn)
    x, label, weight = batch
    x, weight = 1e5 * x, weight * np.array([[1e-5], [2e-5], [3e-5], [4e-5]])
    net = NET.replace('"MarginInner', '"LargeMarginInner').replace(
        "margin_inner_product_param", "largemargin_inner_product_param"
    )
    arrays = {"x": x, "label": label, "weight": weight}
    text = report_of(tmp_path, capsys, net, "--iteration", "18", "--train", "4", **arrays)
    page, numbers = Page(text), json.loads((tmp_path / "report" / "report.json").read_text())

    # It says that the C++ computes the exact rule, and that the others never ran in it.
    assert "its authors' C++ computes the <b>exact</b> rule" in text
    assert "what the tricks of the later layer would have been in this one" in text
    assert "The C++ of this layer has no departure" in text
    assert "with rows of unit length" not in text
    assert numbers["comparison"]["layer_type"] == "LargeMarginInnerProduct"
    assert numbers["comparison"]["loss"] == pytest.approx(large_loss(x, label, weight), rel=1e-7)
    verdicts = {row[0]: row[-1] for row in page.tables["checks"][1:]}
    for blob in ("bottom.diff", "weight.diff"):
        assert verdicts[f"exact, {blob}"] == "passes"
        assert verdicts[f"paper, {blob}"] == verdicts[f"detached, {blob}"] == "fails"

    # The weight is neither measured nor trained with rows of unit length.
    ratios = np.linalg.norm(x, axis=1) / np.linalg.norm(weight, axis=1)[label]
    (row,) = (row for row in page.tables["samples"] if row[0].startswith("length of the feature"))
    expected = [ratios.min(), np.median(ratios), ratios.max()]
    np.testing.assert_allclose([number(cell) for cell in row[1:]], expected, rtol=6e-3)
    for run in numbers["training"]["runs"]:
        assert run["weight_length"][0] == pytest.approx(2.5e-5)
    names = [run["name"] for run in numbers["training"]["runs"]]
    assert "plain softmax" in names
    assert "modified softmax (SINGLE)" not in names

    assert sorted(drawn) == PICTURES
    assert_legends_fit(drawn)
    assert "|x|/|w_y|" in drawn["coeff_norm"].axes[0].get_ylabel()


@pytest.mark.parametrize(("high", "scale"), [(50, "linear"), (5000, "log")])
def test_a_run_that_goes_astray_leaves_the_others_to_be_seen(high, scale):
    runs = [
        TrainingRun(name, EXACT, np.arange(9), *[np.linspace(1, end, 9)] * 5)
        for name, end in (("exact", 1.5), ("no projection", high))
    ]
    figure = figures.training(Training(tuple(runs), 9, 0.1, 0.9, 0.0, 1, (5.0, 5.0)))
    assert figure.axes[0].get_yscale() == scale
    low, top = figure.axes[0].get_ylim()
    assert low < 1 < high < top
