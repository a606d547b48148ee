"""Caffe's random numbers, against the C++ standard and the C++'s own loop."""

import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.data.order import Order
from caffe_margin.torch.data.rng import Twister, draw_seeds


def shuffled(order, twister):
    """util/rng.hpp, a number at a time."""
    order = list(order)
    for i in range(len(order) - 1, 0, -1):
        width = 2**32 // (i + 1)
        while (j := twister.draw() // width) > i:
            pass
        order[i], order[j] = order[j], order[i]
    return order


def test_twister_is_the_standards():
    # [rand.predef]: the 10000th number of a default-constructed std::mt19937.
    assert Twister(5489).take(9999, 1)[0] == 4123659995


def test_takes_from_any_place():
    numbers = Twister(3).take(0, 2000)
    twister = Twister(3)
    for start in (0, 700, 701, 5, 1999, 0):
        assert np.array_equal(twister.take(start, 1), numbers[start : start + 1])
    assert twister.draw() == numbers[1]
    assert Twister(3 + 2**32).draw() == numbers[0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11, 300_000])
def test_shuffles_as_the_cpp(count):
    twister, slow = Twister(count + 5), Twister(count + 5)
    order = list(range(count))
    twister.shuffle(order)
    assert order == shuffled(range(count), slow)
    assert twister.position == slow.position
    if count == 300_000:
        assert slow.position > count  # a number was drawn again


@pytest.mark.parametrize("shuffle", [None, 4])
def test_order_of_any_stretch(shuffle):
    count, skip = 7, 3
    twister, rounds, current = Twister(4), [], list(range(count))
    for _ in range(6):
        current = current if shuffle is None else shuffled(current, twister)
        rounds += current
    order = Order(count, shuffle, skip)
    for start, length in [(0, 5), (5, 5), (4, 20), (30, 3), (0, 1), (2, 0)]:
        expected = rounds[skip + start : skip + start + length]
        assert order.take(start, length).tolist() == expected


def layer(type, **transform):
    message = pb.LayerParameter(type=type)
    message.transform_param.CopyFrom(pb.TransformationParameter(**transform))
    return message


def test_seeds_follow_each_other():
    numbers = Twister(9).take(0, 20).tolist()
    random = layer("ImageData", mirror=True)
    random.image_data_param.shuffle = True
    random.image_data_param.rand_skip = 5
    plain = layer("Data", crop_size=4)
    rng = Twister(9)
    assert draw_seeds(random, False, rng).shuffle == numbers[1]
    assert rng.position == 5
    assert draw_seeds(plain, False, rng).transform == 0
    assert rng.position == 6  # the thread's
    assert draw_seeds(plain, True, rng).transform == numbers[7]
    assert rng.position == 9
    draw_seeds(layer("MemoryData", mirror=True), False, rng)
    draw_seeds(layer("HDF5Data"), True, rng)
    draw_seeds(layer("InnerProduct", mirror=True), True, rng)
    assert rng.position == 10
