"""Reading .npz files without trust: what numpy writes comes back, what else there is is refused."""

import contextlib
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_margin.files.npz import FREE_BYTES, MAX_RATIO, read_arrays, write_arrays

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f8"),
    "scalar": np.array(-7),
    "flags": np.array([True, False]),
    "text": np.array("ä\n\U0001f600"),
    "empty": np.zeros((0, 4)),
    "fc6/blob": np.array([1], np.uint8),
}


def npy(header=None, data=b"", version=b"\x01\x00", length=None):
    header = (header or "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n").encode()
    width = "<H" if version == b"\x01\x00" else "<I"
    size = struct.pack(width, len(header) if length is None else length)
    return b"\x93NUMPY" + version + size + header + data


def header(descr="'<f8'", shape="(1,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def archive(tmp_path, members, compression=zipfile.ZIP_STORED):
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, write_arrays])
def test_what_numpy_writes_comes_back(tmp_path, save):
    path = tmp_path / "arrays.npz"
    save(path, ARRAYS) if save is write_arrays else save(path, **ARRAYS)
    arrays = read_arrays(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.shape == ARRAYS[name].shape
        assert array.dtype == ARRAYS[name].dtype.newbyteorder("=")
        assert array.flags.c_contiguous
        assert array.flags.writeable


ONE = npy(data=bytes(8))
HOSTILE = {
    "objects": ([("a.npy", npy(header("'|O'"), bytes(8)))], "dtype is '|O'; only booleans"),
    "structured": ([("a.npy", npy(header("[('a', '<f8')]"), bytes(8)))], "only booleans"),
    "no such dtype": ([("a.npy", npy(header("'<f3'"), bytes(3)))], "not a valid dtype descriptor"),
    "no room": ([("a.npy", npy(header("'<U0'", "(9**99,)"), b""))], "not one of an .npy"),
    "no item size": ([("a.npy", npy(header("'<U0'"), b""))], "takes no room"),
    "negative shape": ([("a.npy", npy(header(shape="(-1,)"), bytes(8)))], "not a tuple of whole"),
    "bool shape": ([("a.npy", npy(header(shape="(True,)"), bytes(8)))], "not a tuple of whole"),
    "list shape": ([("a.npy", npy(header(shape="[1]"), bytes(8)))], "shape is not valid"),
    "too many dims": ([("a.npy", npy(header(shape=f"({'1,' * 99})"), bytes(8)))], "array 'a'"),
    "huge dim": ([("a.npy", npy(header(shape=f"(0, {10**30})"), b""))], "array 'a'"),
    "fortran 3": ([("a.npy", npy(header(order="3"), bytes(8)))], "not a valid bool"),
    "code": ([("a.npy", npy("__import__('os').getpid()"))], "header is not one"),
    "nesting": ([("a.npy", npy("(" * 4000))], "header is not one"),
    "unclosed": ([("a.npy", npy("(1, '"))], "header is not one"),
    "empty descr": ([("a.npy", npy(header("()")))], "header is not one"),
    "complex": ([("a.npy", npy(header("'<c8'"), bytes(8)))], "only booleans"),
    "subarray": ([("a.npy", npy(header("('<f8', (1,))"), bytes(8)))], "only booleans"),
    "no header": ([("a.npy", npy(length=9))], "header is not one"),
    "huge header": ([("a.npy", npy(version=b"\x02\x00", length=2**32 - 1))], "more than 4096"),
    "npy version": ([("a.npy", npy(version=b"\x03\x00"))], "version 1 or 2"),
    "no array": ([("a.npy", b"")], "version 1 or 2"),
    "shorter than it says": ([("a.npy", npy(data=bytes(7)))], "another number"),
    "longer than it says": ([("a.npy", npy(data=bytes(9)))], "another number"),
    "terabytes": ([("a.npy", npy(header(shape="(10**12,)"), bytes(8)))], "not one of an .npy"),
    "exabytes": ([("a.npy", npy(header(shape="(1000000000000,)"), bytes(8)))], "another number"),
    "other member": ([("a.npy", ONE), ("readme.txt", b"hello")], "'readme.txt' is no array"),
    "folder": ([("a/", b"")], "'a/' is no array"),
    "no character": ([("a.npy", npy(header("'<U1'"), b"\0\0\x11\0"))], "no character"),
    "big endian": ([("a.npy", npy(header("'>U1'"), b"\0\x11\0\0"))], "no character"),
    "escapes": ([("\x1b[31m", b"")], r"'\\x1b\[31m' is no array"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_member(tmp_path, case):
    members, message = HOSTILE[case]
    path = archive(tmp_path, members)
    with pytest.raises(ValueError, match=message) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("descr", ["<U1", ">U1"])
@pytest.mark.parametrize("point", [0x10FFFF, 0xD800])
def test_every_code_point(tmp_path, descr, point):
    data = np.array([point], descr.replace("U1", "u4")).tobytes()
    path = archive(tmp_path, [("a.npy", npy(header(repr(descr)), data))])
    assert read_arrays(path)["a"].tolist() == [chr(point)]


def test_header_of_python_2(tmp_path):
    path = archive(tmp_path, [("a.npy", npy(header(shape="(1L,)"), bytes(8)))])
    np.testing.assert_array_equal(read_arrays(path)["a"], [0.0])


def test_version_2_header(tmp_path):
    path = archive(tmp_path, [("a.npy", npy(version=b"\x02\x00", data=bytes(8)))])
    np.testing.assert_array_equal(read_arrays(path)["a"], [0.0])


def test_member_twice(tmp_path):
    path = archive(tmp_path, [("a.npy", ONE)])
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(path, "a") as file,
    ):
        file.writestr("a.npy", ONE)
    with pytest.raises(ValueError, match="'a' is there twice"):
        read_arrays(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_otherwise(tmp_path, compression):
    with pytest.raises(ValueError, match="packed in a way numpy is not"):
        read_arrays(archive(tmp_path, [("a.npy", ONE)], compression))


def patched(path, at, value, signatures):
    """Overwrite a field of every header with one of the signatures."""
    data = bytearray(path.read_bytes())
    for signature, offset in zip(signatures, at, strict=True):
        start = data.index(signature)
        data[start + offset : start + offset + len(value)] = value
    path.write_bytes(data)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def test_encrypted(tmp_path):
    path = archive(tmp_path, [("a.npy", ONE)])
    patched(path, (6, 8), b"\x01\x00", (LOCAL, CENTRAL))
    with pytest.raises(ValueError, match="encrypted"):
        read_arrays(path)


def test_bomb_is_refused_before_it_is_unpacked(tmp_path):
    size = 2 * FREE_BYTES
    text = header(shape=f"({size // 8},)")
    path = archive(tmp_path, [("a.npy", npy(text, bytes(size)))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < size / MAX_RATIO
    tracemalloc.start()
    with pytest.raises(ValueError, match="at most 32 times"):
        read_arrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < FREE_BYTES / 8


def test_bomb_that_lies_about_its_size(tmp_path):
    size = 2 * FREE_BYTES
    path = archive(tmp_path, [("a.npy", npy(data=bytes(size)))], zipfile.ZIP_DEFLATED)
    true_size = struct.pack("<I", len(npy(data=bytes(8))))
    patched(path, (22, 24), true_size, (LOCAL, CENTRAL))
    tracemalloc.start()
    with pytest.raises(ValueError, match="CRC"):
        read_arrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < FREE_BYTES / 8


def test_bomb_of_overlapping_members(tmp_path):
    """A thousand entries of the directory that share one member's bytes."""
    size = 2**20
    data = npy(header(shape=f"({size // 8},)"), bytes(size))
    path = archive(tmp_path, [("a000.npy", data)], zipfile.ZIP_DEFLATED)
    raw = path.read_bytes()
    start, end = raw.index(CENTRAL), raw.index(b"PK\x05\x06")
    entry = raw[start:end]
    entries = b"".join(entry.replace(b"a000", b"a%03d" % i) for i in range(1000))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
    path.write_bytes(raw[:start] + entries + tail)
    with pytest.raises(ValueError, match="at most 32 times"):
        read_arrays(path)


def test_directory_of_a_million_members(tmp_path):
    path = archive(tmp_path, [("a.npy", ONE)])
    raw = path.read_bytes()
    start, end = raw.index(CENTRAL), raw.index(b"PK\x05\x06")
    entries = raw[start:end] * 100_000
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entries), start, 0)
    path.write_bytes(raw[:start] + entries + tail)
    with pytest.raises(ValueError, match="directory of members is too large"):
        read_arrays(path)


def test_limit(tmp_path):
    path = archive(tmp_path, [("a.npy", ONE)])
    with pytest.raises(ValueError, match="10 bytes are read"):
        read_arrays(path, max_bytes=10)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "nothing.npz")
    with pytest.raises(ValueError, match=r"a folder, not a file$"):
        read_arrays(tmp_path)
    (tmp_path / "empty.npz").touch()
    with pytest.raises(ValueError, match=r"no \.npz file"):
        read_arrays(tmp_path / "empty.npz")


def test_writing_leaves_nothing_half_done(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, {"a": np.arange(3)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(path, {"b": np.array([object()])})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_arrays(tmp_path / "no" / "a.npz", {})
    with pytest.raises(IsADirectoryError):
        write_arrays(tmp_path, {})


def written(save):
    file = io.BytesIO()
    save(file, **ARRAYS)
    return file.getvalue()


ORIGINALS = [written(np.savez), written(np.savez_compressed)]


@st.composite
def mutated(draw, originals=ORIGINALS):
    """An .npz with bytes changed, inserted, removed or moved, or cut short."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["change", "insert", "remove", "cut", "copy"]))
        if kind == "change":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "cut":
            del data[at:]
        else:
            data[at:at] = data[: draw(st.integers(0, 64))]
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(data=mutated())
def test_mutated_files_give_arrays_or_a_clean_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.npz"
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        assert all(array.dtype.kind in "biufU" for array in read_arrays(path).values())
