"""HDF5 files, written here."""

import h5py
import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.data.hdf5_data import HDF5Data
from caffe_margin.torch.data.rng import Seeds

LENGTHS = [4, 1, 3]


def hdf5_data(root, seed=0, batch_size=3, shuffle=False):
    start = 0
    for i, length in enumerate(LENGTHS):
        path = root / f"{i}.h5"
        if not path.exists():  # another source may be reading ahead in it
            with h5py.File(path, "w") as file:
                file["label"] = np.arange(start, start + length)
                file["data"] = np.arange(start, start + length)[:, None] * [1.0, 10.0]
        start += length
    (root / "list.txt").write_text("".join(f"{i}.h5\n" for i in range(len(LENGTHS))))
    layer = pb.LayerParameter(name="data", type="HDF5Data", top=["data", "label"])
    layer.hdf5_data_param.MergeFrom(
        pb.HDF5DataParameter(source="list.txt", batch_size=batch_size, shuffle=shuffle)
    )
    return HDF5Data(layer, Seeds(shuffle=seed), root=str(root))


def labels(source, count):
    batches = [next(source) for _ in range(count)]
    for batch in batches:
        assert batch["data"].tolist() == [[x, 10 * x] for x in batch["label"].tolist()]
    return [x for batch in batches for x in batch["label"].tolist()]


def test_round_and_round(tmp_path):
    assert labels(hdf5_data(tmp_path), 8) == [*range(8)] * 3


def test_shuffles_files_and_rows(tmp_path):
    drawn = labels(hdf5_data(tmp_path, seed=1, shuffle=True), 8 * 3)
    rounds = [drawn[i : i + 8] for i in range(0, 72, 8)]
    assert all(sorted(drawn) == [*range(8)] for drawn in rounds)
    assert len({tuple(drawn) for drawn in rounds}) > 4
    for drawn in rounds:  # a file's rows stay together
        files = np.searchsorted(np.cumsum(LENGTHS), drawn, side="right")
        assert np.count_nonzero(np.diff(files)) == 2


def test_shuffle_follows_seed_and_iteration(tmp_path):
    drawn = labels(hdf5_data(tmp_path, seed=1, shuffle=True), 20)
    again = hdf5_data(tmp_path, seed=1, shuffle=True)
    again.iteration = 17
    assert labels(again, 3) == drawn[51:]
    again.close()
    assert labels(hdf5_data(tmp_path, seed=2, shuffle=True), 20) != drawn


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.create_dataset("data", data=np.zeros((3, 3))), r"\(3,\), but .*\(2,\)"),
        (lambda file: file.create_dataset("data", data=np.zeros((2, 2))), "3 rows of 'label', but"),
        (lambda file: file.create_group("data"), "no dataset 'data'; it has data, label"),
        (lambda file: file.create_dataset("data", data=1.0), r"in the shape \(\)"),
    ],
)
def test_refuses_before_the_first_batch(tmp_path, spoil, message):
    source = hdf5_data(tmp_path)
    with h5py.File(tmp_path / "2.h5", "r+") as file:
        del file["data"]
        spoil(file)
    with pytest.raises(ValueError, match=message):
        source.open()
