"""The table of forks' layer types."""

from caffe_margin.nets.forks import FORK_TYPES
from caffe_margin.nets.shape_rules import LAYER_TYPES


def test_forks_types_are_no_types_of_ours() -> None:
    assert FORK_TYPES["Permute"] == FORK_TYPES["PriorBox"] == "SSD"
    assert FORK_TYPES["CenterLoss"] == "caffe-face"
    assert FORK_TYPES["InterClass"] == "SphereFace+"
    both = FORK_TYPES.keys() & LAYER_TYPES.keys()
    assert not {type_ for type_ in both if "Depthwise" not in type_}
    assert not [type_ for type_ in FORK_TYPES if not type_.replace("_", "").isalnum()]
