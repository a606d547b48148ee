"""Every data layer that Caffe recorded, to the bit."""

import numpy as np
import pytest

from helpers.data_layers import open_source, recordings, same_bits

CASES = sorted(recordings())
RANDOM = [case for case in CASES if "crop_offset" in recordings()[case]]


def opened(case, root):
    """A recording, and the source that has to give it."""
    recording = recordings()[case]
    seed = recording.get("random_seed")
    source = open_source(
        root / f"{case}.prototxt",
        root,
        str(recording["phase"]),
        None if seed is None else int(seed),
    )
    if "set_input_arrays/data" in recording:
        source.set_input_arrays(
            recording["set_input_arrays/data"], recording["set_input_arrays/label"]
        )
    return recording, source


def tops(recording, source, i):
    """A Forward's tops; none where only the first ones were kept."""
    keys = {top: f"forward/{i}/{top}" for top in source.tops}
    return {top: recording[key] for top, key in keys.items() if key in recording}


def test_that_there_are_all():
    assert len(CASES) == 106
    assert len(RANDOM) == 8


@pytest.mark.parametrize("case", CASES)
def test_replays(case, caffe_data):
    recording, source = opened(case, caffe_data)
    kept = int(recording.get("forwards_kept", recording["forwards"]))
    assert source.shapes() == {top: a.shape for top, a in tops(recording, source, 0).items()}
    for i in range(kept):
        assert same_bits(next(source), tops(recording, source, i)), f"Forward {i}"
    source.close()


@pytest.mark.parametrize("case", CASES)
def test_goes_to_an_iteration(case, caffe_data):
    recording, source = opened(case, caffe_data)
    kept = int(recording.get("forwards_kept", recording["forwards"]))
    for i in [kept - 1, 0, kept // 2]:
        source.iteration = i
        assert same_bits(next(source), tops(recording, source, i)), f"Forward {i}"
    source.close()


@pytest.mark.parametrize("case", RANDOM)
def test_draws(case, caffe_data):
    """Item, crop and mirror of every image, of the Forwards too whose pixels are not kept."""
    recording, source = opened(case, caffe_data)
    source.open()
    height, width = 44, 37
    transform = source.layer.transform_param
    crop, is_train = transform.crop_size, str(recording["phase"]) == "TRAIN"
    names = list(source.database.keys()) if case.startswith("data") else None
    for i in range(int(recording["forwards"])):
        items, draws = source._plan(i)
        if names:
            items = [names.index(item) for item in items]
        assert np.array_equal(items, recording["item"][i])
        mirror = draws[:, 0] % 2 if transform.mirror else np.zeros(len(items))
        assert np.array_equal(mirror, recording["mirror"][i])
        offset = np.array([[(height - crop) // 2, (width - crop) // 2]] * len(items))
        if not crop:
            offset[:] = 0
        elif is_train:
            offset = draws[:, -2:] % np.array([height - crop + 1, width - crop + 1], np.uint64)
        assert np.array_equal(offset, recording["crop_offset"][i])
    source.close()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_threads_change_nothing(workers, caffe_data):
    recording, source = opened("image_shuffle_crop_mirror", caffe_data)
    source.workers = workers
    for i in range(6):
        assert same_bits(next(source), tops(recording, source, i))
    source.close()


def test_that_a_wrong_seed_is_seen(caffe_data):
    recording, _ = opened("image_crop24_train", caffe_data)
    other = open_source(caffe_data / "image_crop24_train.prototxt", caffe_data, "TRAIN", 2)
    assert not same_bits(next(other), tops(recording, other, 0))
    other.close()
