"""The glyphs: what is drawn, and that a seed says all of it."""

import unicodedata

import cv2
import h5py
import lmdb
import numpy as np
import pytest

import make_glyphs
from caffe_margin import caffe_margin_pb2 as pb

ARGUMENTS = ["--images", "1", "--unseen-images", "2", "--train", "2000"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glyphs") / "glyphs"
    make_glyphs.main([str(folder), *ARGUMENTS])
    return folder


def datums(folder):
    with lmdb.open(str(folder), readonly=True, lock=False) as database, database.begin() as t:
        return [pb.Datum.FromString(value) for _, value in t.cursor()]


def test_the_characters():
    found = make_glyphs.characters(make_glyphs.typefaces())
    assert len(found) == len(set(found)) == 2060
    assert {unicodedata.category(character)[0] for character in found} == {"L", "N", "S"}
    # The Latin and the Cyrillic a are one picture; the Greek alpha is another.
    assert "a" in found
    assert "\u0430" not in found
    assert "\u03b1" in found


def test_train_and_unseen(folder):
    train, unseen = datums(folder / "train"), datums(folder / "unseen")
    assert sorted(datum.label for datum in train) == list(range(2000))
    assert [datum.label for datum in train] != sorted(datum.label for datum in train)
    assert [datum.label for datum in unseen] == np.repeat(range(60), 2).tolist()
    lines = [line.split("\t") for line in (folder / "characters.txt").read_text().splitlines()]
    assert len({code for _, code, _ in lines}) == 2060
    for datum in train + unseen:
        image = np.frombuffer(datum.data, np.uint8)
        assert image.size == datum.channels * datum.height * datum.width == 32 * 32
        assert image.max() > 100


def test_the_seed_says_all(folder, tmp_path):
    make_glyphs.main([str(tmp_path / "again"), *ARGUMENTS])
    make_glyphs.main([str(tmp_path / "other"), *ARGUMENTS, "--seed", "1"])
    data = (folder / "train" / "data.mdb").read_bytes()
    assert (tmp_path / "again" / "train" / "data.mdb").read_bytes() == data
    assert (tmp_path / "other" / "train" / "data.mdb").read_bytes() != data


def test_the_formats_hold_the_same(folder, tmp_path):
    make_glyphs.main([str(tmp_path / "files"), *ARGUMENTS, "--format", "images"])
    first = datums(folder / "train")[0]
    line = (tmp_path / "files" / "train" / "list.txt").read_text().splitlines()[0]
    name, label = line.split(" ")
    image = cv2.imread(str(tmp_path / "files" / "train" / name), cv2.IMREAD_GRAYSCALE)
    assert (image.tobytes(), int(label)) == (first.data, first.label)

    make_glyphs.main([str(tmp_path / "hdf5"), *ARGUMENTS, "--format", "hdf5"])
    with h5py.File(tmp_path / "hdf5" / "train.h5") as file:
        stored = file["data"][0, 0] * 128 + 127.5
        assert stored.astype(np.uint8).tobytes() == first.data
        assert file["label"][0] == first.label


def test_just_these_characters(tmp_path):
    arguments = ["--characters", "70a", "--images", "4"]
    folder = tmp_path / "some"
    make_glyphs.main([str(folder), *arguments])
    assert sorted(path.name for path in folder.iterdir()) == ["characters.txt", "train"]
    lines = (folder / "characters.txt").read_text().splitlines()
    assert lines == ["0\tU+0037\ttrain", "1\tU+0030\ttrain", "2\tU+0061\ttrain"]
    some = datums(folder / "train")
    labels = [datum.label for datum in some]
    assert sorted(labels) == np.repeat(range(3), 4).tolist() != labels
    images = np.array([np.frombuffer(datum.data, np.uint8) for datum in some], np.float64)
    assert len(np.unique(images, axis=0)) == 12

    make_glyphs.main([str(tmp_path / "again"), *arguments, "--format", "hdf5"])
    assert not (tmp_path / "again" / "unseen.h5").exists()
    with h5py.File(tmp_path / "again" / "train.h5") as file:
        again = (file["data"][:] * 128 + 127.5).reshape(12, -1)
        assert file["label"][:].tolist() == labels
    np.testing.assert_array_equal(again, images)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0120", "'0' is there twice"),
        ("a\u0430", r"U\+0430 is none of .* differ by picture"),
        ("0 1", r"U\+0020 is none of"),
        ("", "--characters is empty"),
    ],
)
def test_characters_that_cannot_be(tmp_path, text, complaint):
    with pytest.raises(SystemExit, match=complaint):
        make_glyphs.main([str(tmp_path / "x"), "--characters", text])
    assert not list(tmp_path.iterdir())


def test_a_wrong_number(tmp_path):
    with pytest.raises(SystemExit, match=r"--train must lie in \[1, 2059\]"):
        make_glyphs.main([str(tmp_path / "x"), "--train", "2060"])
    assert not (tmp_path / "x").exists()
