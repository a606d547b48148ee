import os
import signal
import stat
import subprocess
import sys

import pytest

from caffe_margin.files.atomic import atomic_write


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "out.txt"
    with atomic_write(path) as unfinished:
        unfinished.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_or_lost_where_the_block_raises(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def write_until_the_disk_is_full():
        with atomic_write(path) as unfinished:
            unfinished.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space.*out.txt"):
        write_until_the_disk_is_full()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_handed_on(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_write(path) as unfinished:
        unfinished.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_or_device_is_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="device or pipe"), atomic_write(path) as unfinished:
        unfinished.write_text("new")
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_no_folder(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="there is no folder"),
        atomic_write(tmp_path / "a" / "b"),
    ):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_write(tmp_path):
        pass


KILLED = """
import os, signal, sys
from caffe_margin.files.atomic import atomic_write
with atomic_write(sys.argv[1]) as unfinished:
    unfinished.write_text("half")
    os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no SIGKILL")
@pytest.mark.parametrize("signal_", ["SIGKILL", "SIGTERM"])
def test_what_a_killed_run_left_goes_with_the_next(tmp_path, signal_):
    path, number = tmp_path / "out.npz", getattr(signal, signal_)
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(int(number))])
    assert done.returncode == -number
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_write(tmp_path / "another.npz") as unfinished:
        unfinished.write_text("new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["another.npz", "out.npz"]


def test_what_a_live_run_writes_stays(tmp_path):
    with atomic_write(tmp_path / "one.txt") as one:
        one.write_text("one")
        with atomic_write(tmp_path / "two.txt") as two:
            two.write_text("two")
    assert (tmp_path / "one.txt").read_text() == "one"
    assert (tmp_path / "two.txt").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 2


def test_only_folders_of_ours_are_cleared(tmp_path):
    ours = ".caffe-margin-" + 32 * "0"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    for name in (".caffe-margin-settings", f"{ours}-backup", f"a{ours}"):
        (tmp_path / name).mkdir()
    (tmp_path / ours.replace("0", "1")).write_text("a file")
    (tmp_path / ours.replace("0", "2")).symlink_to(tmp_path / "thesis")
    before = set(tmp_path.rglob("*"))
    (tmp_path / ours).mkdir()
    (tmp_path / ours / "half").touch()
    with atomic_write(tmp_path / "out.txt") as unfinished:
        unfinished.write_text("new")
    assert set(tmp_path.rglob("*")) == before | {tmp_path / "out.txt"}
