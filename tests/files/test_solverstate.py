"""Snapshots of a solver."""

import h5py
import numpy as np
import pytest

from caffe_margin.files.solverstate import SolverState, read_solverstate, write_solverstate

# SolverState: iter is field 1, learned_net 2, history 3.
STATE = b"\x08\x80\x7d" + b"\x12\x03a.b" + b"\x1a\x0b\x2a\x04\x00\x00\x80\x3f\x3a\x03\x0a\x01\x01"


def test_read_solverstate(tmp_path):
    path = tmp_path / "s_iter_16000.solverstate"
    path.write_bytes(STATE)
    state = read_solverstate(path)
    assert (state.iteration, state.learned_net, state.current_step) == (16000, "a.b", 0)
    assert [blob.tolist() for blob in state.history] == [[1.0]]
    assert (state.layer_iteration, state.seed) == ({}, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89HDF\r\n\x1a\n", "no solver state, or damaged"),
        (STATE[:-1], "cut short"),
        (STATE[3:], "holds no iteration"),
        (b"", "holds no iteration"),
        (b"\x0a\x01n", "holds no iteration"),  # a net's name
        (b"iter: 16000\n", "no solver state"),  # Caffe writes no text
        (b"\x08" + b"\xff" * 9 + b"\x01", "its iteration is -1"),
    ],
)
def test_what_is_no_solverstate(tmp_path, data, message):
    path = tmp_path / "s.solverstate"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_solverstate(path)


@pytest.mark.parametrize(("path", "what"), [("/dev/zero", "a device or pipe"), (".", "a folder")])
def test_a_solverstate_is_a_file(path, what, monkeypatch):
    monkeypatch.setattr("builtins.open", None)
    with pytest.raises(ValueError, match=f"^{path}: {what}, not a file"):
        read_solverstate(path)


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5"])
def test_what_is_written_is_read(tmp_path, name):
    history = [np.arange(6.0).reshape(2, 3), np.arange(4, dtype=np.float32), np.zeros((0, 3))]
    state = SolverState(7, "a/b.caffemodel", 2, history, {"fc6": 31, "a/b": 2**40}, 2**33)
    write_solverstate(state, tmp_path / name)
    read = read_solverstate(tmp_path / name)
    for mine, blob in zip(read.history, history, strict=True):
        assert mine.shape == blob.shape
        assert mine.tolist() == blob.tolist()
    for field in ("iteration", "learned_net", "current_step", "layer_iteration", "seed"):
        assert getattr(read, field) == getattr(state, field), field


BAD = {
    "there is no dataset //?iter": lambda file: file.__delitem__("iter"),
    "there is no group //?history": lambda file: file.__delitem__("history"),
    "there is no dataset /history/0": lambda file: file.move("history/0", "history/5"),
    "/iter holds 2 numbers": lambda file: replace(file, "iter", np.array([1, 2])),
    "its iteration is -3": lambda file: replace(file, "iter", np.array([-3])),
    "no string of a fixed length": lambda file: replace(file, "learned_net", np.zeros(3)),
    "/history/0 holds no numbers": lambda file: replace(file, "history/0", b"text"),
    "no solver state, or damaged": lambda file: file.attrs.__setitem__("layer_iteration", "[1"),
    "declares 8000000000000 bytes": lambda file: [
        file.__delitem__("history/0"),
        file.create_dataset("history/0", (10**12,), "f8", chunks=(1024,)),
    ],
}


def replace(file, name, value):
    del file[name]
    file[name] = value


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_solverstate_in_hdf5(tmp_path, message):
    path = tmp_path / "s.solverstate.h5"
    write_solverstate(SolverState(7, "a", 2, [np.zeros(3)]), path)
    with h5py.File(path, "a") as file:
        BAD[message](file)
    with pytest.raises(ValueError, match=message):
        read_solverstate(path)
