import pytest

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER
from caffe_margin.study.variants import BASELINES, MARGINS, TYPES, Variant, variants, with_head
from helpers.points import make_net

LARGE = "LargeMarginInnerProduct"
NET = make_net()


def test_a_net_is_compared_under_each_rule():
    found = variants(NET, (PAPER, EXACT, DETACHED))
    assert [v.name for v in found[:3]] == ["paper", "exact", "detached"]
    assert {v.type for v in found[:3]} == {"QUADRUPLE"}
    assert [v.rule for v in found[:3]] == [PAPER, EXACT, DETACHED]
    assert found[3:] == BASELINES
    assert not any(v.has_margin for v in BASELINES)


def test_without_a_rule_a_type_has_its_cplusplus_rule():
    found = variants(NET, types=["DOUBLE", "L-TRIPLE"])[:2]
    assert [(v.name, v.rule) for v in found] == [("DOUBLE", PAPER), ("L-TRIPLE", EXACT)]
    large = make_net(layer=LARGE, margin="DOUBLE")
    assert next((v.name, v.type) for v in variants(large)) == ("exact", "L-DOUBLE")


def test_types_and_rules_make_all_pairs():
    names = [v.name for v in variants(NET, (PAPER, EXACT), ("DOUBLE", "TRIPLE"))[:4]]
    assert names == ["DOUBLE, paper", "DOUBLE, exact", "TRIPLE, paper", "TRIPLE, exact"]


@pytest.mark.parametrize("name", TYPES)
def test_with_head_changes_type_and_layer_alone(name):
    """The layer is that of a file written with the other head, which is read on its own."""
    margin = name.removeprefix("L-")
    layer = LARGE if name.startswith("L-") else "MarginInnerProduct"
    expected = make_net(layer=layer, margin=margin)
    before = NET.SerializeToString()
    assert with_head(NET, Variant(name, name, EXACT)) == expected
    assert NET.SerializeToString() == before
    # and back
    back = with_head(expected, Variant("", "QUADRUPLE", PAPER))
    assert back == NET


def test_every_margin_type_of_the_schema_is_there():
    names = pb.MarginInnerProductParameter.MarginType.keys()
    assert {name.removeprefix("L-") for name in TYPES} == set(names)
    assert set(MARGINS) == set(names) - {"SINGLE"}


def test_the_layer_is_the_one_that_is_trained():
    """One of the TEST phase before it is left alone; two that are trained are refused."""
    net = make_net()
    first = pb.LayerParameter()
    first.CopyFrom(net.layer[2])
    first.name = "fc6_test"
    first.include.add().phase = pb.TEST
    several = pb.NetParameter(layer=[*net.layer[:2], first, *net.layer[2:]])
    changed = with_head(several, BASELINES[0])
    assert changed.layer[2] == first
    assert changed.layer[3].margin_inner_product_param.type == 0
    several.layer[2].ClearField("include")
    with pytest.raises(ValueError, match="several layers with a margin, 'fc6_test' and 'fc6'"):
        with_head(several, BASELINES[0])


def test_a_net_without_a_margin_is_refused():
    with pytest.raises(ValueError, match="'fc6' is SINGLE, which has no margin"):
        variants(make_net(margin="SINGLE"))
    with pytest.raises(ValueError, match="no layer with a margin"):
        variants(cm.read_net("models/sphereface4_deploy.prototxt"))
