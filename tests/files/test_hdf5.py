"""Weights in HDF5: what Caffe writes is read, what is written h5py finds, the rest is refused."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from caffe_margin.files.hdf5 import read_hdf5, write_hdf5
from caffe_margin.files.npz import read_arrays
from caffe_margin.files.weights import read_weights, write_weights
from helpers.places import DATA

SNAPSHOTS = sorted(
    path for path in (DATA / "weights").iterdir() if path.suffix in (".h5", ".caffemodel")
)
W, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7.0, 8.0], np.float32)


@pytest.fixture
def h5(tmp_path):
    """A function that makes a file, and returns its name."""

    def make(fill):
        path = tmp_path / "weights.h5"
        with h5py.File(path, "w") as file:
            fill(file)
        return path

    return make


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.name)
def test_what_caffe_writes_is_read(path):
    """Of a snapshot, against the weights that pycaffe had at that iteration."""
    assert len(SNAPSHOTS) == 4
    run = path.name.partition(".")[0]
    had = {
        key.partition("/")[2]: array
        for key, array in read_arrays(DATA / "weights" / "weights.npz").items()
        if key.partition("/")[0] == run
    }
    weights = read_weights(path)
    got = {f"{name}/{i}": blob for name in weights for i, blob in enumerate(weights[name])}
    assert got.keys() == had.keys()
    for key, blob in got.items():
        assert blob.dtype == had[key].dtype
        assert blob.flags.writeable
        np.testing.assert_array_equal(blob, had[key])


@pytest.mark.parametrize("name", ["a.h5", "a.caffemodel.h5", "a.hdf5"])
def test_what_is_written(tmp_path, name):
    """Group by group, as h5py finds it and as Caffe's own file has it."""
    path = tmp_path / name
    write_weights({"conv": [W, B], "big": [W.astype(">f8")], "odd 层": [np.float32(3)]}, path)
    with h5py.File(path) as file:
        assert list(file) == ["data"]
        assert {layer: sorted(file["data"][layer]) for layer in file["data"]} == {
            "conv": ["0", "1"],
            "big": ["0"],
            "odd 层": ["0"],
        }
        conv, big = file["data/conv/0"], file["data/big/0"]
        assert (conv.dtype, conv.shape, big.dtype) == ("<f4", (2, 3), "<f8")
        assert conv.chunks is None  # contiguous, as H5LTmake_dataset makes it
        np.testing.assert_array_equal(conv, W)
        assert file["data/odd 层/0"].shape == ()
    back = read_weights(path)
    assert {name: [blob.shape for blob in blobs] for name, blobs in back.items()} == {
        "big": [(2, 3)],
        "conv": [(2, 3), (2,)],
        "odd 层": [()],
    }
    np.testing.assert_array_equal(back["conv"][1], B)


def test_the_content_decides(tmp_path):
    write_weights({"a": [W]}, tmp_path / "a.h5")
    os.rename(tmp_path / "a.h5", tmp_path / "b.caffemodel")
    np.testing.assert_array_equal(read_weights(tmp_path / "b.caffemodel")["a"][0], W)
    write_weights({"a": [W]}, tmp_path / "a.caffemodel")
    os.rename(tmp_path / "a.caffemodel", tmp_path / "b.h5")
    np.testing.assert_array_equal(read_weights(tmp_path / "b.h5")["a"][0], W)


def test_blobs_that_others_own(tmp_path):
    path = tmp_path / "a.h5"
    write_hdf5({"a": {0: W, 1: B}, "b": {1: B}, "relu": {}}, path)
    with h5py.File(path) as file:
        assert list(file["data/b"]) == ["1"]
        assert list(file["data/relu"]) == []
    blobs = read_hdf5(path)
    assert {name: list(by_place) for name, by_place in blobs.items()} == {"a": [0, 1], "b": [1]}
    with pytest.raises(ValueError, match=r"a\.h5: layer 'b' has blob 1 and not 0, which another"):
        read_weights(path)


def test_places_are_numbers(h5):
    """Ten comes after nine, and not after one."""

    def fill(file):
        for i in range(11):
            file[f"data/a/{i}"] = np.full(1, i, np.float32)

    assert [blob[0] for blob in read_weights(h5(fill))["a"]] == list(range(11))


def test_other_numbers(h5):
    def fill(file):
        for name, dtype in (("half", "<f2"), ("big", ">f8"), ("int", "<i4"), ("byte", "<u1")):
            file[f"data/{name}/0"] = np.arange(3).astype(dtype)

    weights = read_weights(h5(fill))
    assert {name: blobs[0].dtype for name, blobs in weights.items()} == {
        "half": np.float32,
        "big": np.float64,
        "int": np.float64,
        "byte": np.float64,
    }
    assert all(blobs[0].tolist() == [0, 1, 2] for blobs in weights.values())


@pytest.mark.parametrize("name", ["conv1/7x7_s2", "", ".", "a\0b"])
def test_names_that_no_group_has(tmp_path, name):
    with pytest.raises(ValueError, match=r"HDF5 has no group of this name; write a \.caffem"):
        write_weights({name: [W]}, tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"layer 'a', blob 0: .*not int64"):
        write_weights({"a": [np.zeros(3, np.int64)]}, tmp_path / "a.h5")
    with pytest.raises(ValueError, match="no weights to write"):
        write_weights({"a": []}, tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


# Hostile files


def put(path, value):
    def fill(file):
        file[path] = value

    return fill


def external(file):
    file.create_group("data/a").create_dataset("0", (3,), "<f4", external=[("/etc/passwd", 0, 12)])


def virtual(file):
    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape=(3,))
    file.create_group("data/a").create_virtual_dataset("0", layout)


def huge(file):
    file.create_group("data/a").create_dataset("0", (1 << 20, 1 << 20), "<f4", chunks=(1, 1024))


def zipped(file):
    zeros = np.zeros((1 << 23,), np.float32)
    file.create_group("data/a").create_dataset("0", data=zeros, compression="gzip")


HOSTILE = {
    "no data": (put("weights", W), "there is no group /data"),
    "data is a dataset": (put("data", W), "/data is no group"),
    "layer is a dataset": (put("data/a", W), "/data/a is no group"),
    "group for a blob": (put("data/a/0/x", W), "/data/a/0 is no dataset"),
    "name": (put("data/a/weight", W), "/data/a/weight has no number for a name"),
    "number": (put("data/a/00", W), "/data/a/00 has no number for a name"),
    "many": (put("data/a/123456789", W), "no layer has so many blobs"),
    "text": (put("data/a/0", "text"), "/data/a/0 holds no numbers"),
    "complex": (put("data/a/0", np.ones(2, complex)), "/data/a/0 holds no numbers"),
    "null": (put("data/a/0", h5py.Empty("f")), "/data/a/0 holds no numbers"),
    "soft link": (put("data/a/0", h5py.SoftLink("/x")), "there is no dataset /data/a/0"),
    "other file": (put("data/a", h5py.ExternalLink("b.h5", "/")), "there is no group /data/a"),
    "raw file": (external, "/data/a/0 lies in other files"),
    "virtual": (virtual, "/data/a/0 lies in other files"),
    "huge": (huge, "it declares 4398046511104 bytes of blobs"),
    "zipped": (zipped, "it declares 33554432 bytes of blobs"),
    "no weights": (lambda file: file.create_group("data/relu"), "no layer has weights"),
    "controls": (put("data/\033[2J\n", W), r"/data/\\x1b\[2J is no group"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(h5, case):
    fill, message = HOSTILE[case]
    path = h5(fill)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_damaged_files(tmp_path):
    whole = (DATA / "weights" / "sgd_multistep_hdf5.caffemodel.h5").read_bytes()
    path = tmp_path / "a.h5"
    rng = np.random.default_rng(0)
    for keep in (4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"a\.h5: no HDF5 file of weights, or damaged"):
            read_weights(path)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(4, len(data), 8):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_weights(path)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_weights({"a": [W]}, path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_weights({"a": [W + 1]}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_without_h5py(tmp_path):
    write_weights({"a": [W]}, tmp_path / "a.h5")
    code = (
        "import sys\nsys.modules['h5py'] = None\n"
        "from caffe_margin import read_weights, write_weights\n"
        "read = lambda: read_weights('a.h5')\n"
        "write = lambda: write_weights({'a': [[1.0]]}, 'b.h5')\n"
        "for do in read, write:\n"
        "    try: do()\n"
        "    except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(DATA.parents[1])},
    )
    install = "an HDF5 file needs h5py, which is not installed: pip install 'caffe_margin[torch]'"
    assert done.stdout.splitlines() == [f"a.h5: {install}", f"b.h5: {install}"]


def test_a_large_file_that_is_as_large_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr("caffe_margin.files.hdf5.MAX_BYTES", 1000)
    path = tmp_path / "a.h5"
    blob = np.arange(1000.0)
    with h5py.File(path, "w") as file:
        file["data/fc6/0"] = blob
    assert np.array_equal(read_hdf5(path)["fc6"][0], blob)
    with h5py.File(path, "a") as file:
        file.create_dataset("data/fc6/1", (1000,), "f8", chunks=(10,), fillvalue=1)
    with pytest.raises(ValueError, match="it declares 16000 bytes"):
        read_hdf5(path)
