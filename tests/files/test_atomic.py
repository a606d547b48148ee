import os
import stat

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
