import errno
import json
import os

import pytest

from caffe_margin.report.folder import INDEX, replacing


def write(folder, page, *more):
    (folder / "index.html").write_text(page)
    files = ["index.html", INDEX, *more]
    (folder / INDEX).write_text(json.dumps({"made_by": "caffe-margin 1.0", "files": files}))


def fail_half_way(folder, exception):
    with replacing(folder) as new:
        write(new, "half")
        raise exception


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_new_folder_and_those_above(tmp_path):
    target = tmp_path / "a" / "b" / "report"
    with replacing(target) as new:
        write(new, "one")
        assert not target.exists()
    assert everything(target) == ["index.html", INDEX]
    assert everything(tmp_path / "a" / "b") == ["report", "report/index.html", f"report/{INDEX}"]


def test_empty_folder_is_filled(tmp_path):
    with replacing(tmp_path) as new:
        write(new, "one")
    assert (tmp_path / "index.html").read_text() == "one"


def test_former_output_is_replaced(tmp_path):
    target = tmp_path / "report"
    with replacing(target) as new:
        write(new, "one", "old.png")
        (new / "old.png").touch()
    with replacing(target) as new:
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
        with replacing(".") as new:
            write(new, page)
            assert os.listdir(tmp_path) == ["report"]
        assert target.stat().st_ino == inode
        assert everything(target) == ["index.html", INDEX]
        assert (target / "index.html").read_text() == page


def test_the_index_comes_last(tmp_path, monkeypatch):
    with replacing(tmp_path) as new:
        write(new, "one", "a.png", "z.png")
        (new / "a.png").touch()
        (new / "z.png").touch()
    replaced, replace = [], os.replace

    def until_the_index(source, to):
        if os.path.basename(to) == INDEX:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replaced.append(os.path.basename(to))
        replace(source, to)

    monkeypatch.setattr(os, "replace", until_the_index)

    def again():
        with replacing(tmp_path) as new:
            write(new, "two", "z.png")
            (new / "z.png").touch()

    with pytest.raises(OSError, match="Input/output"):
        again()
    assert replaced == ["index.html", "z.png"]
    assert everything(tmp_path) == ["a.png", "index.html", INDEX, "z.png"]
    monkeypatch.undo()
    with replacing(tmp_path) as new:
        write(new, "three")
    assert everything(tmp_path) == ["index.html", INDEX]


@pytest.mark.parametrize("maker", [{}, {"made_by": "another 1.0"}, {"made_by": 3}])
def test_another_program_s_index_makes_nothing_ours(tmp_path, maker):
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / INDEX).write_text(json.dumps({"files": ["thesis.tex", INDEX], **maker}))
    with pytest.raises(FileExistsError, match="no former report's"), replacing(tmp_path):
        pytest.fail("the block ran")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_listed_folder_is_a_stranger(tmp_path):
    write(tmp_path, "one", "pictures")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileExistsError, match="'pictures'"), replacing(tmp_path):
        pytest.fail("the block ran")


def test_strangers_are_left_alone(tmp_path):
    target = tmp_path / "report"
    with replacing(target) as new:
        write(new, "one")
    (target / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"), replacing(target):
        pytest.fail("the block ran")
    (target / "notes.txt").unlink()
    (target / INDEX).write_text("{}")
    with pytest.raises(FileExistsError, match=r"index\.html"), replacing(target):
        pytest.fail("the block ran")


def test_a_file_is_refused(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"), replacing(tmp_path / "report"):
        pytest.fail("the block ran")
    with pytest.raises(OSError, match="report"), replacing(tmp_path / "report" / "below"):
        pytest.fail("the block ran")
    assert everything(tmp_path) == ["report"]


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path, exception):
    with pytest.raises(exception):
        fail_half_way(tmp_path / "a" / "report", exception)
    assert everything(tmp_path) == []


def test_a_full_disk_names_the_folder_and_keeps_the_former_output(tmp_path):
    target = tmp_path / "report"
    with replacing(target) as new:
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
    with pytest.raises(PermissionError) as caught, replacing(tmp_path / "report"):
        pytest.fail("the block ran")
    assert caught.value.filename == str(tmp_path / "report")


def test_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replacing(tmp_path / "link") as new:
        write(new, "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "index.html").read_text() == "one"
