"""A part of a net: the layers of one phase, or one layer."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format as google

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.select import filter_net, find_layer

TEXT = """\
name: "little"
layer {
  name: "data" type: "ImageData" top: "data" top: "label"
  transform_param { mean_value: 127.5 scale: 0.0078125 }
  image_data_param { source: "list.txt" batch_size: 256 }
}
layer {
  name: "fc6" type: "MarginInnerProduct" bottom: "data" bottom: "label" top: "fc6" top: "lambda"
  param { lr_mult: 1 }
  margin_inner_product_param {
    num_output: 10572 type: QUADRUPLE weight_filler { type: "xavier" }
    base: 1000 gamma: 0.12 power: 1 lambda_min: 5 iteration: 0
  }
}
"""


def net(text: str = TEXT) -> pb.NetParameter:
    return google.Parse(text, pb.NetParameter())


@pytest.mark.parametrize(
    ("rules", "state", "kept"),
    [
        ("", {}, True),
        ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
        ("include { phase: TRAIN }", {"phase": "TEST"}, False),
        ("exclude { phase: TRAIN }", {"phase": "TRAIN"}, False),
        ("exclude { phase: TRAIN }", {"phase": "TEST"}, True),
        ("include { phase: TRAIN } include { phase: TEST }", {"phase": "TEST"}, True),
        ("include { min_level: 2 }", {"level": 1}, False),
        ("include { min_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 3}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["a"]}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["b", "a"]}, True),
        ("include { not_stage: 'a' not_stage: 'b' }", {"stages": ["b"]}, False),
        ("include { not_stage: 'a' }", {"stages": ["c"]}, True),
        ("include { phase: TRAIN stage: 'a' }", {"phase": "TRAIN"}, False),
        ("exclude { stage: 'a' } exclude { stage: 'b' }", {"stages": ["b"]}, False),
        ("include { }", {}, True),
        ("exclude { }", {}, False),
    ],
)
def test_filter_net(rules: str, state: dict[str, Any], kept: bool) -> None:
    whole = net(f'name: "n" layer {{ name: "a" }} layer {{ name: "b" {rules} }}')
    before = whole.SerializeToString()
    filtered = filter_net(whole, **state)
    expected = [whole.layer[0], whole.layer[1]] if kept else [whole.layer[0]]
    assert list(filtered.layer) == expected
    assert whole.SerializeToString() == before
    assert filtered.state == pb.NetState(
        phase=state.get("phase", "TRAIN"),
        level=state.get("level", 0),
        stage=state.get("stages", ()),
    )


def test_filter_net_adds_to_the_nets_own_stages() -> None:
    whole = net('state { phase: TEST stage: "a" } layer { include { stage: "a" stage: "b" } }')
    assert len(filter_net(whole, stages=["b"]).layer) == 1
    assert len(filter_net(whole).layer) == 0


def test_filter_net_refuses() -> None:
    with pytest.raises(ValueError, match="layer 'a' has both include and exclude"):
        filter_net(net('layer { name: "a" include { } exclude { } }'))
    with pytest.raises(ValueError, match="TRAIN and TEST"):
        filter_net(net(), phase="train")


def test_find_layer() -> None:
    whole = net(TEXT + 'layer { name: "r1" type: "ReLU" } layer { name: "r2" type: "ReLU" }')
    assert find_layer(whole, "fc6") is not None
    assert find_layer(whole, "fc6") == whole.layer[1]
    assert find_layer(whole, type="MarginInnerProduct") == whole.layer[1]
    assert find_layer(whole, "r2", "ReLU") == whole.layer[3]
    assert find_layer(whole, type=("Other", "MarginInnerProduct")) == whole.layer[1]
    with pytest.raises(ValueError, match="of type 'ReLU', not 'A' or 'B'"):
        find_layer(whole, "r1", ("A", "B"))
    with pytest.raises(ValueError, match="2 layers of type 'A' or 'ReLU'; name one: 'r1', 'r2'"):
        find_layer(whole, type=("A", "ReLU"))
    assert find_layer(net('layer { name: "only" }')).name == "only"


@pytest.mark.parametrize(
    ("name", "type_", "said"),
    [
        ("fc7", None, "no layer 'fc7'; did you mean 'fc6'?"),
        ("zzz", None, "no layer 'zzz'; it has 'data', 'fc6', 'r', 'r'"),
        ("fc6", "InnerProduct", "layer 'fc6' is of type 'MarginInnerProduct', not 'InnerProduct'"),
        (None, "ReLU", "2 layers of type 'ReLU'; name one: 'r', 'r'"),
        ("r", None, "2 layers are named 'r'; filter_net"),
        (None, "MarginProduct", "no layer of type 'MarginProduct'; did you mean 'MarginInnerP"),
        (None, None, "the net has 4 layers; name one: 'data', 'fc6', 'r', 'r'"),
    ],
)
def test_find_layer_refuses(name: str | None, type_: str | None, said: str) -> None:
    whole = net(TEXT + 'layer { name: "r" type: "ReLU" } layer { name: "r" type: "ReLU" }')
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole text is compared below
        find_layer(whole, name, type_)
    assert said in str(caught.value)
    with pytest.raises(ValueError, match="no layers"):
        find_layer(pb.NetParameter(), name or "a")
