"""The table of forks' layer types."""

from caffe_margin.nets.forks import FORKS
from caffe_margin.nets.shape_rules import LAYER_TYPES


def test_forks_types_are_no_types_of_ours() -> None:
    assert FORKS["DetectionOutput"] == FORKS["PriorBox"] == "SSD"
    assert FORKS["CenterLoss"] == "caffe-face"
    assert FORKS["InterClass"] == "SphereFace+"
    both = FORKS.keys() & LAYER_TYPES.keys()
    assert not {type_ for type_ in both if "Depthwise" not in type_}
    assert not [type_ for type_ in FORKS if not type_.replace("_", "").isalnum()]
