"""Caffe's weight fillers against their closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.fillers import fill, fill_rows

Filler = pb.FillerParameter
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Of the largest distance between the sample's and the true distribution function, times
# sqrt(n): P(D sqrt(n) > 1.95) is 0.001 (Kolmogorov).
KOLMOGOROV = 1.95


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20170414)


def kolmogorov(values: np.ndarray, low: float | None = None, **normal: float) -> float:
    """Return D sqrt(n) of a sample against U(low, -low), or against a normal distribution."""
    x = np.sort(values.astype(np.float64), axis=None)
    cdf = (x - low) / (-2 * low) if low else np.vectorize(NormalDist(**normal).cdf)(x)
    steps = np.arange(x.size + 1) / x.size
    return max(np.max(steps[1:] - cdf), np.max(cdf - steps[:-1])) * math.sqrt(x.size)


@BOTH
def test_constant(rng: np.random.Generator, dtype: type) -> None:
    values = fill(Filler(value=0.25), (2, 3), rng, dtype)
    assert values.dtype == dtype
    assert values.tolist() == [[0.25] * 3] * 2


def test_the_default_is_a_constant_zero_in_float32(rng: np.random.Generator) -> None:
    values = fill(Filler(), (4,), rng)
    assert values.dtype == np.float32
    assert values.tolist() == [0, 0, 0, 0]


def test_a_schema_float_is_float32_also_in_a_float64_blob(rng: np.random.Generator) -> None:
    assert fill(Filler(value=0.12), (1,), rng, np.float64)[0] == 0.11999999731779099


@BOTH
def test_uniform(rng: np.random.Generator, dtype: type) -> None:
    values = fill(Filler(type="uniform", min=-3, max=3), (50, 1000), rng, dtype)
    assert values.dtype == dtype
    assert values.shape == (50, 1000)
    assert values.min() >= -3
    assert values.max() <= 3
    assert kolmogorov(values, low=-3) < KOLMOGOROV


def test_uniform_defaults_to_0_and_1(rng: np.random.Generator) -> None:
    values = fill(Filler(type="uniform"), (10_000,), rng)
    assert 0 <= values.min() < 0.001
    assert 0.999 < values.max() <= 1


def test_uniform_of_an_empty_interval_is_its_one_number(rng: np.random.Generator) -> None:
    assert fill(Filler(type="uniform", min=2, max=2), (3,), rng).tolist() == [2, 2, 2]


@BOTH
def test_gaussian(rng: np.random.Generator, dtype: type) -> None:
    values = fill(Filler(type="gaussian", mean=-2, std=0.5), (50, 1000), rng, dtype)
    assert values.dtype == dtype
    assert kolmogorov(values, mu=-2, sigma=0.5) < KOLMOGOROV


def test_the_statistic_tells_near_distributions_apart(rng: np.random.Generator) -> None:
    values = fill(Filler(type="gaussian"), (50_000,), rng)
    assert kolmogorov(values, mu=0, sigma=1) < KOLMOGOROV
    assert kolmogorov(values, mu=0, sigma=1.05) > KOLMOGOROV
    assert kolmogorov(values, mu=0.03, sigma=1) > KOLMOGOROV


@BOTH
@pytest.mark.parametrize("sparse", [0, 3, 50])
def test_gaussian_sparse_keeps_sparse_of_each_column(
    rng: np.random.Generator, dtype: type, sparse: int
) -> None:
    values = fill(Filler(type="gaussian", sparse=sparse), (50, 2000), rng, dtype)
    assert values.dtype == dtype
    p = sparse / 50
    deviation = math.sqrt(p * (1 - p) / values.size)
    assert np.mean(values != 0) == pytest.approx(p, abs=4 * deviation)
    if sparse:
        assert kolmogorov(values[values != 0], mu=0, sigma=1) < KOLMOGOROV


@BOTH
def test_positive_unitball(rng: np.random.Generator, dtype: type) -> None:
    values = fill(Filler(type="positive_unitball"), (200, 3, 4, 5), rng, dtype)
    assert values.dtype == dtype
    assert values.min() > 0
    rows = values.reshape(200, -1)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=8 * np.finfo(dtype).eps)
    # A row's numbers were uniform on (0, 1] before they were divided by their sum, near 60 / 2.
    assert kolmogorov(rows / rows.max(axis=1, keepdims=True) - 0.5, low=-0.5) < 5


def test_positive_unitball_of_one_number_a_row_is_ones(rng: np.random.Generator) -> None:
    assert np.all(fill(Filler(type="positive_unitball"), (100_000, 1), rng) == 1)


def test_positive_unitball_of_a_row_that_draws_only_zeros() -> None:
    class Zeros(np.random.Generator):
        def random(self, size, dtype):  # type: ignore[no-untyped-def]
            return np.zeros(size, dtype)

    values = fill(Filler(type="positive_unitball"), (2, 4), Zeros(np.random.PCG64()))
    assert values.tolist() == [[0.25] * 4] * 2


FANS = [
    # The shapes and the n of Caffe's own test_filler.cpp, then blobs of fewer and more axes.
    ((1000, 2, 4, 5), Filler.FAN_IN, 2 * 4 * 5),
    ((1000, 2, 4, 5), Filler.FAN_OUT, 1000 * 4 * 5),
    ((1000, 2, 4, 5), Filler.AVERAGE, (2 * 4 * 5 + 1000 * 4 * 5) / 2),
    ((100, 400), Filler.FAN_IN, 400),
    ((100, 400), Filler.FAN_OUT, 100),
    ((100, 400), Filler.AVERAGE, 250),
    ((40_000,), Filler.FAN_IN, 1),
    ((40_000,), Filler.FAN_OUT, 40_000),
    ((40_000,), Filler.AVERAGE, 20_000.5),
    ((20, 3, 40, 5, 2), Filler.FAN_IN, 1200),
    ((20, 3, 40, 5, 2), Filler.FAN_OUT, 8000),
    ((20, 3, 40, 5, 2), Filler.AVERAGE, 4600),
]


@BOTH
@pytest.mark.parametrize(("shape", "norm", "n"), FANS)
def test_xavier(
    rng: np.random.Generator,
    dtype: type,
    shape: tuple[int, ...],
    norm: Filler.VarianceNorm,
    n: float,
) -> None:
    values = fill(Filler(type="xavier", variance_norm=norm), shape, rng, dtype)
    bound = math.sqrt(3 / n)
    assert values.dtype == dtype
    assert values.shape == shape
    assert 0.99 * bound < np.abs(values).max() <= dtype(bound)
    assert kolmogorov(values, low=-bound) < KOLMOGOROV


@BOTH
@pytest.mark.parametrize(("shape", "norm", "n"), FANS)
def test_msra(
    rng: np.random.Generator,
    dtype: type,
    shape: tuple[int, ...],
    norm: Filler.VarianceNorm,
    n: float,
) -> None:
    values = fill(Filler(type="msra", variance_norm=norm), shape, rng, dtype)
    assert values.dtype == dtype
    assert values.shape == shape
    std = math.sqrt(2 / n)
    assert kolmogorov(values, mu=0, sigma=std) < KOLMOGOROV
    assert values.std() == pytest.approx(std, rel=3 / math.sqrt(2 * values.size))


# One row of the kernel for each width from 1 to 6, worked out on paper: 1 - |i / f - (w - 1) / 2f|
# with f = ceil(w / 2).
@BOTH
@pytest.mark.parametrize(
    "hat",
    [
        [1],
        [1 / 2, 1 / 2],
        [1 / 2, 1, 1 / 2],
        [1 / 4, 3 / 4, 3 / 4, 1 / 4],
        [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3],
        [1 / 6, 3 / 6, 5 / 6, 5 / 6, 3 / 6, 1 / 6],
    ],
    ids=len,
)
def test_bilinear(rng: np.random.Generator, dtype: type, hat: list[float]) -> None:
    width = len(hat)
    values = fill(Filler(type="bilinear"), (3, 2, width, width), rng, dtype)
    assert values.dtype == dtype
    assert values.flags.c_contiguous
    for kernel in values.reshape(-1, width, width):
        np.testing.assert_allclose(
            kernel, [[a * b for a in hat] for b in hat], rtol=4 * np.finfo(dtype).eps
        )


@pytest.mark.parametrize(
    "filler",
    [
        Filler(type="constant", value=1),
        Filler(type="uniform"),
        Filler(type="gaussian"),
        Filler(type="positive_unitball"),
        Filler(type="xavier"),
        Filler(type="msra"),
    ],
    ids=lambda filler: filler.type,
)
def test_blobs_of_no_axes_and_of_one(rng: np.random.Generator, filler: pb.FillerParameter) -> None:
    for shape in ((), (3,)):
        values = fill(filler, shape, rng)
        assert isinstance(values, np.ndarray)
        assert values.shape == shape


@pytest.mark.parametrize("type_", ["uniform", "gaussian", "positive_unitball", "xavier", "msra"])
def test_a_seed_reproduces_the_numbers(type_: str) -> None:
    first, again, other = (
        fill(Filler(type=type_), (5, 4), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_weight_of_sphereface(rng: np.random.Generator) -> None:
    weight = fill(Filler(type="xavier"), (10572, 512), rng)
    assert weight.std() == pytest.approx(math.sqrt(1 / 512), rel=1e-3)
    assert np.abs(weight).max() <= np.float32(math.sqrt(3 / 512))


@pytest.mark.parametrize(
    ("filler", "shape", "says"),
    [
        (Filler(type="xaiver"), (2, 2), "unknown filler type 'xaiver'; did you mean 'xavier'?"),
        (Filler(type="Gaussian"), (2, 2), "did you mean 'gaussian'?"),
        (Filler(type="zzz"), (2, 2), "known types: constant, uniform, gaussian"),
        (Filler(type="uniform", min=1, max=0), (2, 2), "min <= max, not 1 and 0"),
        (Filler(type="uniform", max=math.inf), (2, 2), "finite min <= max, not 0 and inf"),
        (Filler(type="uniform", min=math.nan), (2, 2), "finite min <= max, not nan and 1"),
        (Filler(type="gaussian", std=0), (2, 2), "finite std above 0, not 0"),
        (Filler(type="gaussian", std=-1), (2, 2), "finite std above 0, not -1"),
        (Filler(type="gaussian", std=math.nan), (2, 2), "finite std above 0, not nan"),
        (Filler(type="gaussian", mean=math.inf), (2, 2), "finite mean, not inf"),
        (Filler(type="gaussian", sparse=-2), (2, 2), "sparse is -1 (off) or a number"),
        (Filler(type="gaussian", sparse=3), (2, 4), "sparse 3 is above the blob's first dim"),
        (Filler(type="gaussian", sparse=0), (), "at least one axis"),
        (Filler(type="constant", sparse=1), (2, 2), "gaussian filler only, not with constant"),
        (Filler(type="xavier", sparse=0), (2, 2), "gaussian filler only, not with xavier"),
        (Filler(type="bilinear"), (3, 3), "4 axes whose last two are equal, not (3, 3)"),
        (Filler(type="bilinear"), (1, 1, 3, 4), "last two are equal, not (1, 1, 3, 4)"),
        (Filler(), (3, 0), "shape (3, 0) has no elements"),
        (Filler(type="msra"), (-1, 4), "shape (-1, 4) has no elements"),
    ],
)
def test_what_caffe_refuses(
    rng: np.random.Generator, filler: pb.FillerParameter, shape: tuple[int, ...], says: str
) -> None:
    state = rng.bit_generator.state
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fill(filler, shape, rng)
    assert says in str(caught.value)
    assert rng.bit_generator.state == state


@pytest.mark.parametrize("dtype", [np.float16, np.int32, object])
def test_other_types_are_refused(rng: np.random.Generator, dtype: type) -> None:
    with pytest.raises(ValueError, match="a blob is float32 or float64, not "):
        fill(Filler(), (2,), rng, dtype)


ROW_FILLERS = [
    Filler(value=0.25),
    Filler(type="uniform", min=-2, max=0.1),
    Filler(type="gaussian", mean=1, std=0.3),
    Filler(type="positive_unitball"),
    *(
        Filler(type=type_, variance_norm=norm)
        for type_ in ("xavier", "msra")
        for norm in (Filler.FAN_IN, Filler.FAN_OUT, Filler.AVERAGE)
    ),
]


@pytest.mark.parametrize("filler", ROW_FILLERS, ids=lambda f: f"{f.type}-{f.variance_norm}")
def test_rows_are_those_of_the_whole(filler: pb.FillerParameter) -> None:
    """In blocks of odd numbers too, of which a 64-bit draw makes two; and so is what follows."""
    shape = 23, 5
    rng = np.random.default_rng(1)
    whole, after = fill(filler, shape, rng), rng.random()
    for rows in (range(23), range(8), range(8, 16), range(16, 23), range(22, 23)):
        rng = np.random.default_rng(1)
        part = fill_rows(filler, shape, rows, rng, block=3)
        assert np.array_equal(part, whole[rows.start : rows.stop])
        assert rng.random() == after


@pytest.mark.parametrize(
    ("filler", "word"),
    [(Filler(type="gaussian", sparse=2), "sparse"), (Filler(type="bilinear"), "bilinear")],
)
def test_rows_that_are_none(filler: pb.FillerParameter, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word}: its rows cannot be drawn one after the other"):
        fill_rows(filler, (23, 5), range(3), np.random.default_rng(1))
