"""Lists of pairs, as the authors' parseList reads them."""

import numpy as np
import pytest

from caffe_margin.files.pairs_list import read_pairs
from helpers.places import DATA

PAIRS = DATA / "pairs"


@pytest.mark.parametrize("name", ["made", "odd", "crlf"])
def test_read_pairs(name):
    with np.load(PAIRS / "pairs_lists.npz") as recorded:
        folder = str(recorded["folder"])
        expected = zip(
            recorded[f"{name}/file_left"].tolist(),
            recorded[f"{name}/file_right"].tolist(),
            (recorded[f"{name}/flag"] == 1).tolist(),
            recorded[f"{name}/fold"].tolist(),
            strict=True,
        )
        pairs = read_pairs(PAIRS / f"list_{name}.txt")
        assert [
            (f"{folder}/{left}", f"{folder}/{right}", same, fold)
            for left, right, same, fold in pairs
        ] == list(expected)


def test_what_is_no_list(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("10\t300\n\n")
    with pytest.raises(ValueError, match=r"pairs.txt: no pairs; a line is NAME, i, j"):
        read_pairs(path)
    path.write_text("1\t1\nAda\tone\t2\n")
    with pytest.raises(ValueError, match=r"pairs.txt:2: 'Ada\\tone\\t2' does not end"):
        read_pairs(path)
