"""Databases, written here."""

import lmdb
import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.data.data import Data
from caffe_margin.torch.data.databases import Keys, open_database
from helpers.data_layers import need_plyvel

RECORDS = 5
LMDB, LEVELDB = pb.DataParameter.LMDB, pb.DataParameter.LEVELDB


def records():
    for i in range(RECORDS):
        pixels = np.full((1, 2, 3), i, np.uint8).tobytes()
        datum = pb.Datum(channels=1, height=2, width=3, data=pixels, label=i)
        yield b"%d" % (9 - i), datum.SerializeToString()


def write(path, backend):
    if backend == LMDB:
        with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
            for key, value in records():
                transaction.put(key, value)
        return
    need_plyvel()
    try:
        import plyvel
    except ImportError:
        import plyvel_next as plyvel
    with plyvel.DB(str(path), create_if_missing=True) as db:
        for key, value in records():
            db.put(key, value)


def data(path, backend=LMDB, batch_size=3):
    layer = pb.LayerParameter(name="data", type="Data", top=["data", "label"])
    layer.data_param.MergeFrom(
        pb.DataParameter(source=str(path), backend=backend, batch_size=batch_size)
    )
    return Data(layer)


@pytest.mark.parametrize("backend", [LMDB, LEVELDB])
def test_keys_of_any_stretch(tmp_path, backend):
    write(tmp_path / "db", backend)
    keys = Keys(open_database(str(tmp_path / "db"), backend))
    expected = [b"%d" % (5 + i % RECORDS) for i in range(100)]
    for start, count in [(0, 3), (3, 7), (60, 4), (1, 1), (99, 1), (98, 2), (4, 0)]:
        assert keys.take(start, count) == expected[start : start + count]


@pytest.mark.parametrize("backend", [LMDB, LEVELDB])
def test_two_layers_read_one(tmp_path, backend):
    write(tmp_path / "db", backend)
    first, second = data(tmp_path / "db", backend), data(tmp_path / "db", backend)
    assert next(first)["label"].tolist() == [4, 3, 2]
    assert next(first)["label"].tolist() == [1, 0, 4]
    assert next(second)["label"].tolist() == [4, 3, 2]
    first.close()
    assert next(second)["data"][0].eq(1).all()


@pytest.mark.parametrize("backend", [LMDB, LEVELDB])
def test_skip_broken(tmp_path, backend, monkeypatch):
    write(tmp_path / "db", backend)
    source = data(tmp_path / "db", backend)
    get = type(source.database).get
    monkeypatch.setattr(
        type(source.database),
        "get",
        lambda self, key: b"\xff" if key in (b"6", b"9") else get(self, key),
    )
    with pytest.raises(ValueError, match="record '6': the record is no Datum"):
        next(source)
    source.skip_broken = True
    assert next(source)["label"].tolist() == [4, 2, 2]
    assert next(source)["label"].tolist() == [1, 4, 4]
    assert len(source.broken) == 2


def test_datum_of_wrong_length(tmp_path):
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as transaction:
        datum = pb.Datum(channels=1, height=2, width=3, data=b"12345")
        transaction.put(b"0", datum.SerializeToString())
    with pytest.raises(ValueError, match="5 values for 1 x 2 x 3"):
        next(data(tmp_path))
