"""The house: a room imports only rooms below it, and the package shows its names alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import caffe_margin as cm
from helpers.places import ROOT

FLOORS = [
    {"maths", "files"},
    {"nets", "solver"},
    {"kernels"},
    {"layers", "torch"},
    {"recordings"},
    {"study"},
    {"report"},
    {"cli"},
]
"""From the ground; rooms on one floor do not import each other."""

GROUND = {"caffe_margin_pb2"}
"""What lies in no room, below them all: the generated messages."""

PACKAGE = ROOT / "caffe_margin"
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def imported(source):
    """The rooms, or modules in no room, of the package that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out"
            names = [node.module]
            if node.module == "caffe_margin":
                names = [f"caffe_margin.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "caffe_margin":
                yield rest.partition(".")[0]


def wrong(room, source):
    """What a room's source imports from no floor below it."""
    allowed = {other for other in FLOOR if FLOOR[other] < FLOOR[room]} | {room}
    return set(imported(source)) - allowed - (GROUND if room != "maths" else set())


def test_every_module_lies_in_a_room():
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", "pycaffe"} | GROUND
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= FLOOR.keys()


@pytest.mark.parametrize("room", sorted(room for room in FLOOR if (PACKAGE / room).is_dir()))
def test_imports_go_down(room):
    modules = list((PACKAGE / room).rglob("*.py"))
    assert modules
    for path in modules:
        assert not wrong(room, path.read_text()), path.relative_to(ROOT)


def test_kernels_know_arrays_alone():
    for path in (PACKAGE / "kernels").glob("*.py"):
        assert set(imported(path.read_text())) <= {"kernels", "maths"}, path.name


def test_that_an_import_upwards_is_found():
    assert wrong("maths", "from caffe_margin import caffe_margin_pb2") == {"caffe_margin_pb2"}
    assert wrong("files", "from caffe_margin.maths import angular") == {"maths"}
    assert wrong("kernels", "def f():\n    from caffe_margin.layers.layer import Blob") == {
        "layers"
    }
    assert wrong("study", "import caffe_margin.report.page") == {"report"}
    assert not wrong("cli", "from caffe_margin.report import page\nimport numpy")


@pytest.mark.parametrize("room", sorted(room for room in FLOOR if (PACKAGE / room).is_dir()))
def test_torch_has_a_room_of_its_own(room):
    """But for the replays through PyTorch, which are imported when they are asked for."""
    others = set((PACKAGE / room).rglob("*.py")) - {*(PACKAGE / "recordings").glob("torch_*.py")}
    for path in others if room != "torch" else ():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert "torch" not in [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.module.partition(".")[0] != "torch"


def test_dir_shows_the_api():
    assert [name for name in dir(cm) if not name.startswith("__")] == sorted(cm.__all__)


def test_import_brings_no_heavy_library():
    heavy = {"numba", "torch", "rich", "matplotlib", "sklearn", "jinja2", "h5py"}
    code = f"import sys, caffe_margin\nprint(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    code = code.replace("caffe_margin", "caffe_margin.kernels.row_passes")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "numba"


def test_commands_import_torch_when_they_need_it():
    verify = ["verify", str(ROOT / "tests/data/recordings/softmax_loss_default.npz")]
    code = (
        "import sys, contextlib\n"
        "from caffe_margin.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({verify!r} if len(sys.argv) > 1 else ['-h'])\n"
        "print('torch' in sys.modules, 'h5py' in sys.modules, 'cv2' in sys.modules)"
    )
    for arguments in ([], ["verify"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "False False False"


def test_tests_mirror_the_rooms():
    folders = {path.parent.name for path in Path(ROOT / "tests").glob("*/test_*.py")}
    assert folders <= FLOOR.keys() | {"tools"}
