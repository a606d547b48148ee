"""Snapshots of a solver."""

import pytest

from caffe_margin.files.solverstate import read_solverstate

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
        (b"\x89HDF\r\n\x1a\n", "HDF5 file.* the number in its name"),
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
