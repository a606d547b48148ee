import numpy as np
import pytest
import torch

from caffe_margin.maths.softmax import LARGEST_LOSS, log_sum_exp, normalizer


@pytest.mark.parametrize(
    ("normalization", "expected"), [("FULL", 12), ("VALID", 7), ("BATCH_SIZE", 4), ("NONE", 1)]
)
def test_normalizer(normalization, expected):
    assert normalizer(normalization, outer_num=4, inner_num=3, valid_count=7) == expected


def test_normalizer_is_one_where_every_label_is_ignored():
    assert normalizer("VALID", 4, 3, 0) == 1


def test_normalizer_of_a_tensor_stays_one():
    counts = torch.tensor([0, 3])
    assert [normalizer("VALID", 4, 3, count) for count in counts] == [1, 3]
    assert normalizer("VALID", 4, 3, counts[0]).dtype == torch.int64


def test_largest_loss_is_that_of_bug_reports():
    assert f"{LARGEST_LOSS:.4f}" == "87.3365"


def test_log_sum_exp():
    scores = np.random.default_rng(0).normal(size=(5, 7)) * 300
    expected = torch.from_numpy(scores).logsumexp(dim=1).numpy()
    np.testing.assert_allclose(log_sum_exp(scores), expected, rtol=1e-14)
