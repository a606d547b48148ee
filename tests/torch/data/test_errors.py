"""What Caffe aborts on, refused in words that name it; what it does not abort on, read."""

import pytest

from helpers.data_layers import errors, open_source

REFUSED = [error for error in errors() if error["case"].startswith(("image", "data", "hdf5"))]
READ = {"image_gif": "OpenCV 4.11 and later read it", "data_webp": "OpenCV 4.6 alone does not"}
EARLY = {
    "image_missing_later",
    "image_missing_later_prefetch1",
    "image_trailing_blank",
    "image_blank_line",
    "image_blank_last_line",
}
LINES = {
    "image_missing_first": "list_missing_first.txt, line 1: No such file",
    "image_missing_later": "list_missing_later.txt, line 3: No such file",
    "image_trailing_blank": "line 2: .*the name ends in a number",
    "image_trailing_blank_first": "line 1: .*the name ends in a number",
    "image_several_labels": "line 1: .*the name ends in a number",
    "image_blank_line": "line 2: a blank line",
    "image_blank_last_line": "line 3: a blank line",
    "image_two_blanks": "line 1: .*ends in a blank",
    "image_leading_blank": "line 1: .*starts or ends in a blank",
    "image_tab": "line 1: .*has a tab",
    "image_bom": "line 1: .*byte order mark",
    "image_not_an_image": "line 1: .*no image that OpenCV reads",
    "image_two_sizes_one_batch": "line 3: .*3 x 60 x 48, but the first .*3 x 44 x 37",
    "image_crop_larger_later": "line 3: crop_size 36 is larger than the image of 21 x 33",
    "image_mean_value_three_gray": "3 mean_value .*1 channels",
    "image_rand_skip_large": "would skip [0-9]+ lines, but .* has 11",
    "data_encoded_channels_differ": "u1_grey.*1 x 44 x 37.*force_color",
    "data_lmdb_default_backend": "holds a database for backend: LMDB, but backend is LEVELDB",
    "data_16bit": "16 bits; force_color",
    "data_mean_file_3d": r"the mean has the shape \(2, 7, 6\)",
    "data_not_decodable": "record '0': .*does not decode",
    "hdf5_dataset_missing": "no dataset 'nosuch'; it has data, label",
    "hdf5_lengths_differ": "4 rows of 'label', but 3 of 'data'",
}


def test_names_are_of_cases():
    cases = {error["case"] for error in REFUSED}
    assert {*READ, *EARLY, *LINES} <= cases
    assert len(REFUSED) > 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("error", REFUSED, ids=lambda error: error["case"])
def test_refuses_what_caffe_refuses(error, caffe_data):
    case = error["case"]
    path = caffe_data / "errors" / f"{case}.prototxt"
    source = open_source(path, caffe_data, error["phase"], seed=1)
    if error["died"] and case not in READ:
        run = source.open if case in EARLY else lambda: [next(source) for _ in range(8)]
        with pytest.raises((ValueError, FileNotFoundError), match=LINES.get(case)) as caught:
            run()
        assert "\n" not in str(caught.value)
    else:
        for _ in range(3):
            next(source)
    source.close()
