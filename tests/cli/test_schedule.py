import json
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.cli import main
from helpers.places import DATA, MODELS

MODEL, SOLVER = MODELS / "sphereface_model.prototxt", MODELS / "sphereface_solver.prototxt"
CASES = DATA / "cases"


def rows(out):
    """The table's rows: iteration -> the rest."""
    split = [line.split(maxsplit=1) for line in out.splitlines()]
    return {int(line[0]): line[1].split() for line in split if line and line[0].isdigit()}


def test_table(capsys):
    assert main(["schedule", str(MODEL), "--solver", str(SOLVER)]) == 0
    out = capsys.readouterr().out
    table = rows(out)
    assert list(table) == [1, 10, 100, 1000, 1659, 10000, 16001, 24001, 28000]
    assert table[1] == ["892.857", "0.112", "%", "first"]  # 1000 / 1.12
    assert table[1659] == ["5", "16.7", "%", "lambda_min", "reached"]
    assert table[16001][3:] == ["learning", "rate", "x", "0.1"]
    assert table[28000][3:] == ["last"]
    assert "max_iter 28000" in out


def test_json(capsys):
    assert main(["schedule", str(MODEL), "--last", "100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["layer"], answer["last"], answer["lambda_min_reached"]) == ("fc6", 100, 1659)
    assert [step["iteration"] for step in answer["steps"]] == [1, 10, 100]
    assert answer["steps"][2]["lambda"] == pytest.approx(1000 / 13)
    assert answer["steps"][2]["share_of_margin"] == pytest.approx(1 / (1 + 1000 / 13))


def test_the_rewritten_net_has_the_same_schedule(tmp_path, capsys):
    plugin = tmp_path / "plugin.prototxt"
    assert main(["plugin", str(MODEL), "-o", str(plugin)]) == 0
    outputs = []
    for net in (MODEL, plugin):
        capsys.readouterr()
        assert main(["schedule", str(net)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_large_margin_has_the_same_schedule(tmp_path, state, capsys):
    """Of the same parameters, in the table and for the line that resumes."""
    text = MODEL.read_text().replace('"MarginInner', '"LargeMarginInner')
    path = tmp_path / "net.prototxt"
    path.write_text(text.replace("margin_inner_product_param", "largemargin_inner_product_param"))
    for more in ([], ["--solverstate", str(state)]):
        outputs = []
        for net in (str(MODEL), str(path)):
            assert main(["schedule", net, *more]) == 0
            outputs.append(capsys.readouterr().out.replace(net, "NET"))
        assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gamma: 0.12", "gamma: 0", "lambda never comes down to lambda_min"),
        ("gamma: 0.12", "gamma: 0.001", "not reached; it would be at iteration 199000"),
        ("type: QUADRUPLE", "type: SINGLE", "lambda changes nothing"),
    ],
)
def test_what_the_run_does_not_reach(tmp_path, capsys, old, new, message):
    path = tmp_path / "net.prototxt"
    path.write_text(MODEL.read_text().replace(old, new))
    assert main(["schedule", str(path), "--solver", str(SOLVER)]) == 0
    assert message in capsys.readouterr().out


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "s_iter_1600.solverstate"
    path.write_bytes(b"\x08\xc0\x0c")  # field 1 is 1600
    return path


def test_solverstate(state, capsys):
    assert main(["schedule", str(MODEL), "--solverstate", str(state)]) == 0
    line, *comments = capsys.readouterr().out.splitlines()
    assert line == "iteration: 1600"
    assert all(comment.startswith("# ") for comment in comments)
    # 1000 / (1 + 0.12 * 1601), and 1000 / 1.12
    assert "lambda of the next Forward: 5.17813; from iteration: 0, 892.857" in comments[-1]


def test_solverstate_where_an_iteration_is_several_forwards(state, tmp_path, capsys):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER.read_text() + "iter_size: 2\n")
    arguments = ["schedule", str(MODEL), "--solver", str(solver)]
    assert main([*arguments, "--solverstate", str(state)]) == 0
    assert capsys.readouterr().out.startswith("iteration: 3200\n")
    assert main([*arguments, "--solverstate", str(state), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["iter"], answer["iter_size"], answer["iteration"]) == (1600, 2, 3200)
    assert main(arguments) == 0
    assert list(rows(capsys.readouterr().out))[-3:] == [32001, 48001, 56000]


def test_a_solver_for_a_net(capsys):
    assert main(["schedule", str(SOLVER)]) == 2
    expected = f"caffe-margin schedule code/sphereface_model.prototxt --solver {SOLVER}"
    assert expected in capsys.readouterr().err


OFFSET = {
    name: str(CASES / f"resume_offset{name}")
    for name in (".prototxt", "_solver.prototxt", "_iter_500.solverstate")
}


def forwards(start, iter_size, iterations):
    """The layer's count after so many iterations of a solver, one Forward at a time."""
    count = start
    for _ in range(iterations):
        for _ in range(iter_size):
            count += 1
    return count


def schedule_json(capsys, *arguments):
    assert main(["schedule", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_two_counts_of_a_run_that_began_with_weights(capsys):
    net, solver = OFFSET[".prototxt"], OFFSET["_solver.prototxt"]
    assert main(["schedule", net, "--solver", solver]) == 0
    out = capsys.readouterr().out
    assert "iterations 2001 to 2800" in out
    table = rows(out)
    assert list(table) == [2001, 2401, 2800]
    assert table[2401][3:] == ["learning", "rate", "x", "0.1"]
    assert "--started-at" not in out  # 2000 is no iteration of 800: there is one reading


def test_resume_goes_on_from_the_layers_own_count(capsys):
    arguments = [OFFSET[".prototxt"], "--solver", OFFSET["_solver.prototxt"]]
    arguments += ["--solverstate", OFFSET["_iter_500.solverstate"]]
    assert main(["schedule", *arguments]) == 0
    line, *comments = capsys.readouterr().out.splitlines()
    assert line == f"iteration: {forwards(2000, 1, 500)}"
    assert "lambda of the next Forward: 5;" in comments[-1]
    value = schedule_json(capsys, *arguments)
    assert (value["iteration"], value["lambda"]) == (2500, 5)


def with_iteration(tmp_path, iteration):
    path = tmp_path / f"at_{iteration}.prototxt"
    path.write_text(
        Path(OFFSET[".prototxt"]).read_text().replace("iteration: 2000", f"iteration: {iteration}")
    )
    return str(path)


@pytest.mark.parametrize("iter_size", [1, 2])
def test_both_readings_of_a_prototxt_that_may_have_been_resumed(tmp_path, capsys, iter_size):
    """Begun with iteration: 400 and the solver at 0, or with both where the layer was at 400."""
    net, solver = with_iteration(tmp_path, 400), tmp_path / "solver.prototxt"
    solver.write_text(f"max_iter: 800 lr_policy: 'step' stepsize: 600 iter_size: {iter_size}")
    resumed_at = 400 // iter_size
    expected = {
        0: forwards(400, iter_size, 500),
        resumed_at: forwards(0, iter_size, 500),
    }
    arguments = [net, "--solver", str(solver)]
    resume = [*arguments, "--solverstate", OFFSET["_iter_500.solverstate"]]
    assert main(["schedule", *resume]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert lines == [f"iteration: {count}" for count in expected.values()]
    value = schedule_json(capsys, *resume)
    assert (value["iteration"], value["lambda"]) == (None, None)
    assert {r["started_at"]: r["iteration"] for r in value["readings"]} == expected
    for reading in value["readings"]:
        by_hand = max(1000 / (1 + 0.12 * (reading["iteration"] + 1)), 5)
        assert reading["lambda"] == pytest.approx(by_hand)
    for at, count in expected.items():
        value = schedule_json(capsys, *resume, "--started-at", str(at))
        assert value["iteration"] == count

    assert main(["schedule", *arguments]) == 0
    assert f"add --started-at {resumed_at}" in capsys.readouterr().out
    for at, start in ((0, 400), (resumed_at, 0)):
        value = schedule_json(capsys, *arguments, "--started-at", str(at))
        assert value["last"] == forwards(start, iter_size, 800)
        (drop,) = (s["iteration"] for s in value["steps"] if s["note"].startswith("learning"))
        assert drop == forwards(start, iter_size, 600) + 1


def test_started_at_says_where_an_offset_run_was_resumed(tmp_path, capsys):
    """Begun with 2000 at 0, resumed with 2500 at 500 and now at 800: 2800, which is no reading."""
    net, state = with_iteration(tmp_path, 2500), tmp_path / "s_iter_800.solverstate"
    state.write_bytes(b"\x08\xa0\x06")  # field 1 is 800
    value = schedule_json(capsys, net, "--solverstate", str(state), "--started-at", "500")
    assert value["iteration"] == forwards(2000, 1, 800)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--started-at", "5"], "give --solver or --solverstate too"),
        (
            ["--solverstate", OFFSET["_iter_500.solverstate"], "--started-at", "501"],
            "is of iteration 500, before --started-at 501",
        ),
    ],
)
def test_started_at_that_says_nothing(capsys, arguments, message):
    assert main(["schedule", OFFSET[".prototxt"], *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_starts_after_the_last(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    path.write_text(MODEL.read_text().replace("iteration: 0", "iteration: 28000"))
    assert main(["schedule", str(path), "--last", "28000"]) == 2
    assert "starts at iteration 28000, after the last, 28000" in capsys.readouterr().err
    at_the_end = ["--solver", str(SOLVER), "--started-at", "28000"]
    assert main(["schedule", str(path), *at_the_end]) == 2
    assert "starts at iteration 28000, after the last, 28000" in capsys.readouterr().err


def test_plot(tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib.figure")
    drawn = []
    savefig = matplotlib.Figure.savefig

    def record(figure, *arguments, **keywords):
        drawn.append(figure)
        savefig(figure, *arguments, **keywords)

    monkeypatch.setattr(matplotlib.Figure, "savefig", record)
    path = tmp_path / "schedule.png"
    assert main(["schedule", str(MODEL), "--solver", str(SOLVER), "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    above, _ = drawn[0].axes
    curve, share = (
        max(axes.lines, key=lambda line: len(line.get_xdata())) for axes in drawn[0].axes
    )
    x, lambda_ = curve.get_data()
    assert (x[0], x[-1]) == (1, 28000)
    assert (lambda_[0], lambda_[-1]) == (pytest.approx(1000 / 1.12), 5)
    assert share.get_ydata()[-1] == pytest.approx(100 / 6)
    assert "1,659" in above.get_title(loc="left")


def test_plot_without_matplotlib(tmp_path):
    code = (
        "import sys\nsys.modules['matplotlib'] = None\nfrom caffe_margin.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "schedule", str(MODEL), "--plot", "x.png"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert "pip install 'caffe_margin[report]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("iter_size", "shown"), [(1, ""), (2, "iter_size: 2")])
@pytest.mark.parametrize(
    ("stepsize", "drops"), [(30, [30, 60, 90]), (4, [*range(4, 41, 4)]), (100, []), (0, [])]
)
def test_step_policy(tmp_path, capsys, stepsize, drops, iter_size, shown):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'max_iter: 100 lr_policy: "step" stepsize: {stepsize} gamma: 0.5 {shown}')
    assert main(["schedule", str(MODEL), "--solver", str(solver), "--json"]) == 0
    notes = {
        step["iteration"]: step["note"]
        for step in json.loads(capsys.readouterr().out)["steps"]
        if "learning rate" in step["note"]
    }
    expected = {drop * iter_size + 1: "learning rate x 0.5" for drop in drops}
    if stepsize == 4:
        expected[40 * iter_size + 1] += ", and so on"
    assert notes == expected


@pytest.mark.parametrize("iter_size", [0, -2])
@pytest.mark.parametrize("resume", [True, False])
def test_iter_size_is_positive(state, tmp_path, capsys, iter_size, resume):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f"max_iter: 10 iter_size: {iter_size}")
    more = ["--solverstate", str(state)] if resume else []
    assert main(["schedule", str(MODEL), "--solver", str(solver), *more]) == 2
    expected = f"caffe-margin: {solver}: iter_size is {iter_size}; it must be positive\n"
    assert capsys.readouterr() == ("", expected)


def test_iteration_beyond_an_int(state, tmp_path, capsys):
    solver = tmp_path / "solver.prototxt"
    solver.write_text("iter_size: 2")
    arguments = ["schedule", str(MODEL), "--solver", str(solver), "--solverstate", str(state)]
    state.write_bytes(b"\x08\xff\xff\xff\xff\x03")  # 2^30 - 1
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("iteration: 2147483646\n")
    state.write_bytes(b"\x08\x80\x80\x80\x80\x04")  # 2^30
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"caffe-margin: {state}: 1073741824 iterations of 2 Forwards")
    assert err.count("\n") == 1


@pytest.mark.parametrize("more", [["--plot", "x.png"], ["--last", "9"]])
def test_one_line_has_no_picture(state, capsys, more):
    assert main(["schedule", str(MODEL), "--solverstate", str(state), *more]) == 2
    assert "--plot and --last are for the table" in capsys.readouterr().err


def test_the_picture_is_a_png(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["schedule", str(MODEL), "--plot", "x.txt"])
    assert "argument --plot: x.txt does not end in .png" in capsys.readouterr().err


def test_a_third_reading_is_named(tmp_path, capsys):
    """iteration: 4500 was written at the solver's 2500; at its 5000 the layer stands at 7000."""
    text = (MODELS / "sphereface_model.prototxt").read_text()
    net = tmp_path / "net.prototxt"
    net.write_text(text.replace("iteration: 0", "iteration: 4500", 1))
    state = tmp_path / "a_iter_5000.solverstate"
    state.write_bytes(pb.SolverState(iter=5000).SerializeToString())
    assert main(["schedule", str(net), "--solverstate", str(state)]) == 0
    out = capsys.readouterr().out
    assert "iteration: 9500" in out
    assert "iteration: 5000" in out
    assert "began at another of the solver's iterations" in out
    assert "one of the two" not in out
    told = ["schedule", str(net), "--solverstate", str(state), "--started-at", "2500", "--json"]
    assert main(told) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 7000


def test_started_past_the_end(capsys):
    net, solver = (str(MODELS / f"sphereface_{kind}.prototxt") for kind in ("model", "solver"))
    assert main(["schedule", net, "--solver", solver, "--started-at", "40000"]) == 2
    assert "--started-at 40000 is past max_iter 28000" in capsys.readouterr().err


def test_multistep_drops_one_step_an_iteration(tmp_path, capsys):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        'net: "n" base_lr: 1 lr_policy: "multistep" gamma: 0.1 max_iter: 20000 iter_size: 2\n'
        "stepvalue: 16000 stepvalue: 8000 stepvalue: 16000"
    )
    net = str(MODELS / "sphereface_model.prototxt")
    assert main(["schedule", net, "--solver", str(solver), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    drops = [step["iteration"] for step in steps if "learning rate" in step["note"]]
    # two Forwards an iteration of the solver, from its 16000, 16001 and 16002 on
    assert drops == [32001, 32003, 32005]
