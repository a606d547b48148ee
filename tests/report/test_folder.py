import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_margin.report.folder import INDEX, staging_folder


def write(folder, page, *more):
    (folder / "index.html").write_text(page)
    files = ["index.html", INDEX, *more]
    (folder / INDEX).write_text(json.dumps({"made_by": "caffe-margin 1.0", "files": files}))


def fail_half_way(folder, exception):
    with staging_folder(folder) as new:
        write(new, "half")
        raise exception


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_new_folder_and_those_above(tmp_path):
    target = tmp_path / "a" / "b" / "report"
    with staging_folder(target) as new:
        write(new, "one")
        assert list(target.iterdir()) == [new]
        assert new.name.startswith(".")
    assert everything(target) == ["index.html", INDEX]
    assert everything(tmp_path / "a" / "b") == ["report", "report/index.html", f"report/{INDEX}"]


def test_empty_folder_is_filled(tmp_path):
    with staging_folder(tmp_path) as new:
        write(new, "one")
    assert (tmp_path / "index.html").read_text() == "one"


def test_former_output_is_replaced(tmp_path):
    target = tmp_path / "report"
    with staging_folder(target) as new:
        write(new, "one", "old.png")
        (new / "old.png").touch()
    with staging_folder(target) as new:
        write(new, "two")
    assert everything(tmp_path) == ["report", "report/index.html", f"report/{INDEX}"]
    assert (target / "index.html").read_text() == "two"


def test_a_folder_that_exists_stays_the_same_folder(tmp_path, monkeypatch):
    # A mount point, a folder below one that is not writable and the working directory need this.
    target = tmp_path / "report"
    target.mkdir()
    inode = target.stat().st_ino
    monkeypatch.chdir(target)
    for page in ("one", "two"):
        with staging_folder(".") as new:
            write(new, page)
            assert os.listdir(tmp_path) == ["report"]
        assert target.stat().st_ino == inode
        assert everything(target) == ["index.html", INDEX]
        assert (target / "index.html").read_text() == page


STEPS = ("replace report.json", "replace index.html", "replace z.png", "remove a.png")
"""What replaces the report of `a_former_report` by `its_successor`, in this order; then the index
once more, now the successor's own."""


def a_former_report(folder):
    with staging_folder(folder) as new:
        write(new, "one", "a.png")
        (new / "a.png").touch()


def its_successor(folder):
    with staging_folder(folder) as new:
        write(new, "two", "z.png")
        (new / "z.png").touch()


def before_each_step(act, monkeypatch):
    """Call ``act`` with the steps taken so far, and with the one that comes, before each step."""
    steps = []

    def watched(name):
        original = getattr(os, name)

        def step(*paths):
            if Path(paths[-1]).parent.name == "report":
                act(steps, f"{name} {Path(paths[-1]).name}")
                steps.append(f"{name} {Path(paths[-1]).name}")
            return original(*paths)

        return step

    for name in ("replace", "remove"):
        monkeypatch.setattr(os, name, watched(name))
    return steps


def test_the_index_comes_first_and_last(tmp_path, monkeypatch):
    target = tmp_path / "report"
    a_former_report(target)

    def listed_are_all(steps, _):
        if steps:
            index = json.loads((target / INDEX).read_text())
            there = {path.name for path in target.iterdir() if not path.name.startswith(".")}
            assert there <= set(index["files"])

    steps = before_each_step(listed_are_all, monkeypatch)
    its_successor(target)
    assert tuple(steps) == (*STEPS, STEPS[0])
    assert json.loads((target / INDEX).read_text())["made_by"] == "caffe-margin 1.0"


@pytest.mark.parametrize("stop", range(len(STEPS) + 1))
def test_a_step_that_fails(tmp_path, monkeypatch, stop):
    target = tmp_path / "report"
    a_former_report(target)

    def fail(steps, _):
        if len(steps) == stop:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        before_each_step(fail, patch)
        with pytest.raises(OSError, match="Input/output") as caught:
            its_successor(target)
    assert caught.value.filename == str(target)
    files = {"a.png", "index.html", INDEX} if stop < 4 else {"index.html", INDEX}
    assert set(everything(target)) == files | ({"z.png"} if stop > 2 else set())
    assert (target / "index.html").read_text() == ("two" if stop > 1 else "one")
    with staging_folder(target) as new:
        write(new, "three")
    assert everything(tmp_path) == ["report", "report/index.html", f"report/{INDEX}"]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no SIGKILL")
@pytest.mark.parametrize("former", [True, False])
@pytest.mark.parametrize("stop", [*range(len(STEPS) + 1), None])
def test_a_run_that_is_killed(tmp_path, stop, former):
    target = tmp_path / "report"
    if former:
        a_former_report(target)
    before = everything(tmp_path)
    program = (
        "import os, pytest, signal, sys, test_folder\n"
        "target, stop = test_folder.Path(sys.argv[1]), eval(sys.argv[2])\n"
        "def die(steps=(), _=None):\n"
        "    if len(steps) == stop: os.kill(os.getpid(), signal.SIGKILL)\n"
        "test_folder.before_each_step(die, pytest.MonkeyPatch())\n"
        "with test_folder.staging_folder(target) as new:\n"
        "    test_folder.write(new, 'two', 'z.png')\n"
        "    (new / 'z.png').touch()\n"
        "    if stop is None: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = [sys.executable, "-c", program, str(target), str(stop)]
    done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)})
    if former or stop is None or stop < 4:
        assert done.returncode == -signal.SIGKILL
    if stop is None and former:
        assert [name for name in everything(tmp_path) if "/." not in name] == before
    with staging_folder(target) as new:
        write(new, "three")
    assert everything(tmp_path) == ["report", "report/index.html", f"report/{INDEX}"]
    assert (target / "index.html").read_text() == "three"


def test_another_run_at_the_same_folder_is_left_alone(tmp_path):
    with staging_folder(tmp_path / "report") as new:
        write(new, "one")
        with (
            pytest.raises(FileExistsError, match=r"holds '\.caffe-margin"),
            staging_folder(tmp_path / "report"),
        ):
            pytest.fail("the block ran")
    assert everything(tmp_path) == ["report", "report/index.html", f"report/{INDEX}"]


HEAD = '{"made_by": "caffe-margin 1.0", "files": ["report.json", "index.html"]'


@pytest.mark.parametrize(
    "text",
    [HEAD + "}", HEAD + ', "x": ' + "[" * 10**6, HEAD + " " * 10**8],
    ids=["short", "deep", "huge"],
)
def test_what_follows_the_head_of_an_index_is_not_read(tmp_path, text):
    (tmp_path / "index.html").touch()
    (tmp_path / INDEX).write_text(text)
    with staging_folder(tmp_path) as new:
        write(new, "two")
    assert (tmp_path / "index.html").read_text() == "two"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"made_by": "caffe-margin 1.0", "files": ' + "[" * 10**6,
        '{"made_by": "caffe-margin 1.0", "files": [' + '{"a":' * 10**6,
        '{"made_by": "caffe-margin 1.0", "files": [3, null, "report.json", "index.htm"]}',
        '{"made_by": "caffe-margin 1.0", "files": [nothing]}',
        '{"made_by": "caffe-margin 1.0"}',
        " " * 2**20 + HEAD + "}",
        (HEAD + "}").encode("utf-16"),
        b"\xff" * 100,
        b"",
    ],
    ids=[
        "deep",
        "deep list",
        "deep in the list",
        "other names",
        "no list",
        "nothing listed",
        "far away",
        "another encoding",
        "no text",
        "empty",
    ],
)
def test_a_hostile_index_makes_nothing_ours(tmp_path, text):
    (tmp_path / "index.html").write_text("mine")
    (tmp_path / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileExistsError, match="no former report's"), staging_folder(tmp_path):
        pytest.fail("the block ran")
    assert everything(tmp_path) == ["index.html", INDEX]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_an_index_that_is_no_file(tmp_path, what):
    index = tmp_path / INDEX
    if what == "pipe":
        os.mkfifo(index)
    elif what == "device":
        index.symlink_to("/dev/zero")
    else:
        index.mkdir()
    with pytest.raises(FileExistsError, match=r"holds 'report\.json'"), staging_folder(tmp_path):
        pytest.fail("the block ran")
    assert everything(tmp_path) == [INDEX]


@pytest.mark.parametrize("maker", [{}, {"made_by": "another 1.0"}, {"made_by": 3}])
def test_another_program_s_index_makes_nothing_ours(tmp_path, maker):
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / INDEX).write_text(json.dumps({"files": ["thesis.tex", INDEX], **maker}))
    with pytest.raises(FileExistsError, match="no former report's"), staging_folder(tmp_path):
        pytest.fail("the block ran")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_listed_folder_is_a_stranger(tmp_path):
    write(tmp_path, "one", "pictures")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileExistsError, match="'pictures'"), staging_folder(tmp_path):
        pytest.fail("the block ran")


def test_strangers_are_left_alone(tmp_path):
    target = tmp_path / "report"
    with staging_folder(target) as new:
        write(new, "one")
    (target / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"), staging_folder(target):
        pytest.fail("the block ran")
    (target / "notes.txt").unlink()
    (target / INDEX).write_text("{}")
    with pytest.raises(FileExistsError, match=r"index\.html"), staging_folder(target):
        pytest.fail("the block ran")


def test_a_file_is_refused(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"), staging_folder(tmp_path / "report"):
        pytest.fail("the block ran")
    with pytest.raises(OSError, match="report"), staging_folder(tmp_path / "report" / "below"):
        pytest.fail("the block ran")
    assert everything(tmp_path) == ["report"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_device_is_refused():
    with pytest.raises(FileExistsError, match="is a device or pipe; "), staging_folder("/dev/full"):
        pytest.fail("the block ran")


def test_a_damaged_index_is_what_is_named(tmp_path):
    with staging_folder(tmp_path) as new:
        write(new, "one", "annealing.png")
        (new / "annealing.png").touch()
    index = tmp_path / INDEX
    index.write_bytes(index.read_bytes()[:20])
    with (
        pytest.raises(FileExistsError, match=r"or report\.json cannot be read"),
        staging_folder(tmp_path),
    ):
        pytest.fail("the block ran")


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path, exception):
    with pytest.raises(exception):
        fail_half_way(tmp_path / "a" / "report", exception)
    assert everything(tmp_path) == []


def test_a_full_disk_names_the_folder_and_keeps_the_former_output(tmp_path):
    target = tmp_path / "report"
    with staging_folder(target) as new:
        write(new, "one")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as caught:
        fail_half_way(target, full)
    assert caught.value.filename == str(target)
    assert everything(tmp_path) == ["report", "report/index.html", f"report/{INDEX}"]
    assert (target / "index.html").read_text() == "one"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as caught, staging_folder(tmp_path / "report"):
        pytest.fail("the block ran")
    assert caught.value.filename == str(tmp_path / "report")


def test_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with staging_folder(tmp_path / "link") as new:
        write(new, "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "index.html").read_text() == "one"
