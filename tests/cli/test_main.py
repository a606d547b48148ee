import subprocess
import sys

import pytest

from caffe_margin import cli
from caffe_margin.cli import main
from helpers.places import DATA


@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["inspect"], ["inspect", "--nosuch", "x"]])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: caffe-margin" in capsys.readouterr().err


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
    assert err.startswith(f"caffe-margin: {path} is a solver; give its net: caffe-margin ")
    assert f"caffe-margin {arguments[0]} n.prototxt" in err
    assert f"caffe-margin schedule n.prototxt --solver {path}\n" in err
    assert "read_solver" not in err
    assert err.count("\n") == 1


def test_a_solver_without_a_net(tmp_path, capsys):
    path = tmp_path / "solver.prototxt"
    path.write_text("base_lr: 0.1")
    assert main(["inspect", str(path)]) == 2
    assert f"caffe-margin schedule NET --solver {path}\n" in capsys.readouterr().err


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
