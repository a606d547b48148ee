import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import ParseError
from caffe_margin.nets import plugin_text
from caffe_margin.nets.plugin_text import from_python, to_python
from helpers.places import MODELS

LAYER = """# the loss
layer {  # fc6
    name: "fc6"
    type: "MarginInnerProduct"
    bottom: "fc5" bottom: "label"
    top: "fc6" top: "lambda"
    param { lr_mult: 1 decay_mult: 1 }
    margin_inner_product_param {
        num_output: 10  # classes
        type: QUADRUPLE

        # don't touch: \\ "these"
        weight_filler { type: "xavier" }
    }
    include { phase: TRAIN }  # not in TEST
}
"""

PLUGIN = r"""# the loss
layer {  # fc6
    name: "fc6"
    type: "Python"
    bottom: "fc5" bottom: "label"
    top: "fc6" top: "lambda"
    param { lr_mult: 1 decay_mult: 1 }
    python_param {
        module: "caffe_margin.pycaffe"
        layer: "MarginInnerProductLayer"
        param_str:
            '# layer fc6\n'
            'num_output: 10  # classes\n'
            'type: QUADRUPLE\n'
            '\n'
            '# don\'t touch: \\ "these"\n'
            'weight_filler { type: "xavier" }\n'
    }
    include { phase: TRAIN }  # not in TEST
}
"""


def parse(text):
    return text_format.Parse(text, pb.NetParameter())


def test_the_text():
    assert to_python(LAYER) == (PLUGIN, ["fc6"])
    assert from_python(PLUGIN) == (LAYER, ["fc6"])


def test_windows_line_ends():
    layer, plugin = (text.replace("\n", "\r\n") for text in (LAYER, PLUGIN))
    assert to_python(layer).text == plugin
    assert from_python(plugin).text == layer


@pytest.mark.parametrize(
    "path", sorted(MODELS.glob("*_model.prototxt")), ids=lambda path: path.stem
)
def test_models(path):
    text = path.read_text()
    plugin = to_python(text).text
    assert from_python(plugin).text == text

    net, new = parse(text), parse(plugin)
    assert parse(from_python(plugin).text) == net
    (index,) = (i for i, layer in enumerate(net.layer) if layer.type == "MarginInnerProduct")
    # What the Python layer reads is what the C++ layer reads.
    param = pb.MarginInnerProductParameter()
    text_format.Parse(new.layer[index].python_param.param_str, param)
    assert param == net.layer[index].margin_inner_product_param
    # But for its type and parameters the layer is the same, and so is all around it.
    for layer in (net.layer[index], new.layer[index]):
        for field in ("type", "margin_inner_product_param", "python_param"):
            layer.ClearField(field)
    assert new == net


@pytest.mark.parametrize(
    "layer",
    [
        "layer { TYPE margin_inner_product_param { num_output: 3 } }",
        "layer { TYPE margin_inner_product_param { num_output: 3 # three\n } }",
        "layer: [{ name: 'a' TYPE\nmargin_inner_product_param:<num_output:3>}, {}]",
        "layer # {\n{ TYPE margin_inner_product_param # }\n: { num_output: 3\n\t type: DOUBLE }\n}",
        "layer { name: 'a' 'b' margin_inner_product_param {} type: # x\n 'Margin' 'InnerProduct' }",
        "layer { name: 'a\\n}' TYPE; margin_inner_product_param { }; }",
        "layer { name: 'é' TYPE margin_inner_product_param { # \udce9\n} }",
        "layer { TYPE margin_inner_product_param {num_output: 3} }",
        "layer { TYPE margin_inner_product_param: {\n\n\tnum_output: 3\n  type: DOUBLE\n\n} }",
        "layer { TYPE margin_inner_product_param\n{ num_output: 3 } }",
        "layer { type:'MarginInnerProduct' margin_inner_product_param { # c\n num_output: 3 } }",
    ],
)
def test_other_ways_to_write_it(layer):
    layer = layer.replace("TYPE", "type: 'MarginInnerProduct'")
    text = f"\ufeffname: 'n'\n{layer}\nlayer {{ name: 'other' }}"

    def message(text):
        return parse(text.lstrip("\ufeff").replace("\udce9", "?"))

    plugin, names = to_python(text)
    back, names_back = from_python(plugin)
    assert names == names_back == [message(text).layer[0].name]
    assert message(back) == message(text)
    net = message(plugin)
    plugin_text.restore(net)
    assert net == message(text)


def test_two_layers():
    second = LAYER.replace('"fc6"', '"fc7"')
    other = 'layer { name: "x" type: "Python" python_param { module: "mine" layer: "L" } }\n'
    plugin, names = to_python(LAYER + other + second)
    assert names == ["fc6", "fc7"]
    assert plugin == PLUGIN + other + PLUGIN.replace('"fc6"', '"fc7"').replace("r fc6", "r fc7")
    assert from_python(plugin) == (LAYER + other + second, names)


def test_hand_written_param_str():
    text = """layer { name: "a" type: "Python" python_param {
        param_str: 'num_output: 3 ' "type: DOUBLE"
        layer: "MarginInnerProductLayer" module: "caffe_margin.pycaffe" } }"""
    assert from_python(text).text == (
        'layer { name: "a" type: "MarginInnerProduct" '
        "margin_inner_product_param { num_output: 3 type: DOUBLE } }"
    )


def test_comments_of_ones_own_stay():
    text = r"""layer { NAME type: "Python" python_param {
        param_str: COMMENT 'num_output: 3 # layer b\n' 'base: 7'
        layer: "MarginInnerProductLayer" module: "caffe_margin.pycaffe" } }"""
    inside = "{\n  num_output: 3 # layer b\n  base: 7\n}"
    other = inside.replace("{", "{\n  # layer z")
    for name, comment, expected in [
        ("", "''", inside),
        ("name: 'b'", "''", inside),
        ("name: 'b'", r"'# layer b\n'", inside),
        ("name: 'b'", r"'# layer z\n'", other),
        ("", r"'# layer z\n'", other),
    ]:
        new = from_python(text.replace("NAME", name).replace("COMMENT", comment)).text
        assert new.partition("margin_inner_product_param ")[2] == f"{expected} }}"
    unnamed = f'layer {{ type: "MarginInnerProduct" margin_inner_product_param {other} }}'
    assert from_python(to_python(unnamed).text).text == unnamed


def test_nothing_to_do():
    with pytest.raises(ValueError, match="'fc6' is a Python layer already"):
        to_python(PLUGIN)
    with pytest.raises(ValueError, match=r"no Python layer of the module 'caffe_margin\.pycaffe'"):
        from_python(LAYER)
    with pytest.raises(ValueError, match=r"^net: .*did you mean 'MarginInnerProdukt'"):
        to_python('layer { name: "a" type: "MarginInnerProdukt" }', filename="net")
    for change in (to_python, from_python):
        with pytest.raises(ValueError, match=r"^net: .* old form .*upgrade_net_proto_text"):
            change('layers { name: "a" type: RELU }', filename="net")


def test_errors():
    with pytest.raises(ValueError, match=r"^net:2: layer 'a' has no margin_inner_product_param"):
        to_python('\nlayer { name: "a"\ntype: "MarginInnerProduct" }', filename="net")
    with pytest.raises(
        ParseError, match=r"^net:10:9: 'tipe' is no field of .* mean 'type'"
    ) as caught:
        to_python(LAYER.replace("type: QUAD", "tipe: QUAD"), filename="net")
    assert (caught.value.line, caught.value.column) == (10, 9)
    misspelt = PLUGIN.replace("type: QUAD", "tipe: QUAD").replace('"fc6"', '"fc7"')
    with pytest.raises(ParseError, match=r"^net:8: param_str of layer 'fc7':3:1: 'tipe' is no"):
        from_python(misspelt, filename="net")
    with pytest.raises(ParseError, match=r"^net: param_str of layer 'fc7':3:1: 'tipe' is no"):
        plugin_text.restore(parse(misspelt), filename="net")
    with pytest.raises(ParseError, match=r"^net:1:"):
        to_python("layer {", filename="net")


def test_name_of_the_layer():
    plugin = "MarginInnerProductLayer"
    assert plugin_text.parse_param_str("# layer fc 6\nnum_output: 3", plugin).name == "fc 6"
    for text in ("num_output: 3", "# fc6\nnum_output: 3", "num_output: 3\n# layer fc6\n"):
        layer = plugin_text.parse_param_str(text, plugin)
        assert (layer.name, layer.type) == (plugin, "MarginInnerProduct")
        assert layer.margin_inner_product_param.num_output == 3


def test_large_margin():
    """The same text but for the names, there and back, as text and as a message."""
    large, plugin = (
        text.replace("MarginInnerProduct", "LargeMarginInnerProduct").replace(
            "margin_inner_product_param", "largemargin_inner_product_param"
        )
        for text in (LAYER, PLUGIN)
    )
    assert to_python(large) == (plugin, ["fc6"])
    assert from_python(plugin) == (large, ["fc6"])
    message = parse(plugin)
    plugin_text.restore(message)
    assert message == parse(large)
    assert to_python(large + LAYER.replace("fc6", "fc7")).layers == ["fc6", "fc7"]
    with pytest.raises(ParseError, match="'tipe' is no"):
        to_python(large.replace("type: QUADRUPLE", "tipe: QUADRUPLE"))


def test_large_margin_of_no_parameters():
    text = 'layer { type: "LargeMarginInnerProduct" largemargin_inner_product_param {} }'
    message = parse(to_python(text).text)
    plugin_text.restore(message)
    assert message == parse(text)
