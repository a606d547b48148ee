import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_margin import cli
from caffe_margin.cli import main
from helpers.places import DATA, MODELS, ROOT


@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["inspect"], ["inspect", "--nosuch", "x"]])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: caffe-margin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "x", "--batch", "2.5"], "--batch: '2.5' is not a whole number"),
        (["compare", "x", "--seed", "one"], "--seed: 'one' is not a whole number"),
        (["compare", "x", "--lr", "fast"], "--lr: 'fast' is not a number"),
        (["compare", "x", "--lr", "inf"], "--lr: inf is not a positive number"),
        (["geometry", "--angle", "x"], "--angle: 'x' is not a number"),
        (["geometry", "--lengths", "1", "x"], "--lengths: 'x' is not a number"),
    ],
)
def test_what_is_no_number_is_told_so(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.endswith(f"error: argument {message}\n")


def test_a_net_in_the_solvers_place(capsys):
    net = str(MODELS / "sphereface_model.prototxt")
    assert main(["schedule", net, "--solver", net]) == 2
    error = capsys.readouterr().err
    assert "belongs to a net, and this must be a solver\n" in error
    assert "read_net" not in error


@pytest.mark.parametrize("command", [command.__name__.split(".")[-1] for command in cli.COMMANDS])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"example:\n  caffe-margin {command}" in capsys.readouterr().out


def test_missing_file_is_one_line(tmp_path, capsys):
    path = tmp_path / "nosuch.prototxt"
    assert main(["inspect", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("caffe-margin: ")
    assert str(path) in err
    assert err.count("\n") == 1


def test_syntax_error_says_where(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    path.write_text('name: "x"\nlayer { name: }\n')
    assert main(["inspect", str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{path}:2:" in err
    assert err.count("\n") == 1


def test_unknown_field_warns_and_strict_refuses(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "a" type: "Input" top: "a" forked_param { x: 1 } }')
    assert main(["inspect", str(path)]) == 0
    err = capsys.readouterr().err
    assert err.startswith("caffe-margin: warning: ")
    assert "forked_param" in err
    assert main(["inspect", str(path), "--strict"]) == 2
    assert "forked_param" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["schedule"], ["compare"], ["record", "--out", "x"], ["plugin"]]
)
def test_a_solver_in_the_nets_place_is_told_what_to_call(arguments, capsys):
    path = str(DATA / "cases" / "solver_given_to_inspect.prototxt")
    assert main([*arguments, path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"caffe-margin: {path} is a solver; give its net, n.prototxt, ")
    assert f"caffe-margin schedule n.prototxt --solver {path}\n" in err
    assert "read_solver" not in err
    assert err.count("\n") == 1


def test_a_solver_without_a_net(tmp_path, capsys):
    path = tmp_path / "solver.prototxt"
    path.write_text("base_lr: 0.1")
    assert main(["inspect", str(path)]) == 2
    assert f"caffe-margin schedule NET.prototxt --solver {path}\n" in capsys.readouterr().err


def test_reader_that_leaves_early():
    command = (
        f"{sys.executable} -m caffe_margin inspect models/sphereface64_model.prototxt | head -1"
    )
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=cli.__path__[0] + "/../.."
    )
    assert result.stderr == ""
    assert result.stdout.startswith("layer")


def test_help_imports_nothing_slow():
    code = (
        "import sys; from caffe_margin.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(str([m for m in ('numba', 'rich', 'matplotlib') if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("--help", 0),
        ("inspect models/sphereface_model.prototxt", 0),
        ("plugin models/sphereface_model.prototxt", 0),
        ("inspect nosuch", 2),
    ],
)
def test_closed_streams(arguments, status, closed):
    command = f"{sys.executable} -m caffe_margin {arguments} {closed}"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=cli.__path__[0] + "/../.."
    )
    assert result.returncode == status
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("inspect nosuch", 2),
        ("inspect", 2),
        ("verify nosuch.npz", 2),
        (f"inspect {DATA}/cases/pool_ceil_mode.prototxt", 0),  # a warning
        (f"plugin {MODELS}/sphereface_model.prototxt", 0),
    ],
)
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2> >(exec <&-)"])
def test_what_cannot_be_said_leaves_the_exit_status(arguments, status, stderr):
    command = f"{sys.executable} -m caffe_margin {arguments} {stderr}"
    result = subprocess.run(["bash", "-c", command], capture_output=True)
    assert result.returncode == status
    assert result.stderr == b""


NET = """
    name: "Gesichter-\u00fc"
    layer { name: "\u5c64" type: "Input" top: "x" input_param { shape { dim: 4 dim: 8 } } }
    layer { name: "\u5c642" type: "MarginInnerProduct" bottom: "x" bottom: "y" top: "z"
            margin_inner_product_param { num_output: 3 base: 5 lambda_min: 5
                                         weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize("command", ["inspect", "schedule", "compare"])
@pytest.mark.parametrize(
    "terminal",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_names_that_the_terminal_lacks(command, terminal, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET, encoding="utf-8")
    command = f"{sys.executable} -m caffe_margin {command} net.prototxt"
    result = subprocess.run(
        command.split(), capture_output=True, cwd=tmp_path, env=os.environ | terminal
    )
    assert result.returncode == 0
    assert result.stderr == b""
    assert rb"\u5c642" in result.stdout


def test_a_file_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"net-\xff.prototxt")
    (tmp_path / name).write_text(NET.replace("Gesichter-\u00fc", ""), encoding="utf-8")
    command = [sys.executable, "-m", "caffe_margin", "inspect", name]
    result = subprocess.run(
        command, capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "utf-8"}
    )
    assert result.returncode == 0
    assert rb"net-\udcff.prototxt: 2 layers in TRAIN" in result.stdout


@pytest.mark.parametrize(
    "start",
    [
        "import runpy; runpy.run_module('caffe_margin', run_name='__main__', alter_sys=True)",
        "from importlib.metadata import EntryPoint\n"
        "sys.exit(EntryPoint('caffe-margin', SCRIPT, 'console_scripts').load()())",
    ],
    ids=["module", "script"],
)
@pytest.mark.parametrize("module", ["numpy", "google.protobuf", "argparse", "caffe_margin.cli"])
def test_interrupted_while_it_imports(start, module):
    # As a signal would, in the middle of an import.
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["caffe-margin", "inspect", "models/sphereface_model.prototxt"]
"""
    script = re.search('^caffe-margin = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    result = subprocess.run(
        [sys.executable, "-c", code + start.replace("SCRIPT", repr(script[1]))],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
