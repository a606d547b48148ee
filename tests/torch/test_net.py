"""A net as a whole: what goes in and comes out, which gradients there are, and its bookkeeping."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import caffe_margin.torch as cmt
from caffe_margin.files.weights import write_weights
from caffe_margin.torch.layers.table import LAYERS
from helpers.places import MODELS
from helpers.small_nets import inputs, message, net

FILLER = "weight_filler { type: 'gaussian' std: 1 } bias_filler { type: 'gaussian' std: 1 }"


def ip(name, bottom, top, outputs=3, more=""):
    return (
        f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{top}' "
        f"inner_product_param {{ num_output: {outputs} {FILLER} }} {more} }}"
    )


def neuron(type_, bottom, top, more=""):
    return (
        f"layer {{ name: '{type_}_{top}' type: '{type_}' bottom: '{bottom}' top: '{top}' {more} }}"
    )


def euclid(name, first, second, more=""):
    return (
        f"layer {{ name: '{name}' type: 'EuclideanLoss' bottom: '{first}' bottom: '{second}' "
        f"{more} }}"
    )


X = inputs(x=(2, 4))
XY = inputs(x=(2, 4), y=(2, 3))


def x_and_y(batch=2):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(batch, size, generator=generator) for size in (4, 3))


# What comes out


def test_outputs_are_the_tops_that_nobody_reads_in_the_nets_order():
    made = net(X + ip("a", "x", "a") + ip("b", "a", "b") + ip("c", "a", "c"))
    assert list(made(x=torch.ones(2, 4))) == ["b", "c"]


def test_a_blob_that_ends_in_place_is_an_output():
    made = net(X + ip("a", "x", "a") + neuron("ReLU", "a", "a"))
    x = torch.randn(2, 4)
    outputs = made(x=x)
    assert list(outputs) == ["a"]
    torch.testing.assert_close(outputs["a"], nn.functional.linear(x, *made.params["a"]).relu())


def test_an_input_that_nobody_reads_is_an_output():
    assert list(net(XY + ip("a", "x", "a"))(x=torch.ones(2, 4), y=torch.ones(2, 3))) == ["y", "a"]


def test_keep():
    made = net(X + ip("a", "x", "a") + neuron("ReLU", "a", "b") + ip("c", "b", "c"))
    x = torch.randn(2, 4)
    assert list(made(x=x, keep="a")) == ["a", "c"]
    assert list(made(x=x, keep=["b", "x"])) == ["x", "b", "c"]
    assert list(made(x=x, keep="all")) == ["x", "a", "b", "c"]
    with pytest.raises(ValueError, match=r"the net has no blob 'aa'; did you mean 'a'\?"):
        made(x=x, keep=["aa"])


def test_other_batches():
    made = net(X + ip("a", "x", "a"))
    assert made(x=torch.ones(7, 4))["a"].shape == (7, 3)


# Gradients


def test_a_blob_in_place_has_the_diff_that_its_first_layer_sends_down():
    text = XY + ip("a", "x", "a") + neuron("TanH", "a", "a") + neuron("Sigmoid", "a", "a")
    made = net(text + euclid("loss", "a", "y", "top: 'loss'"), dtype=torch.float64)
    x, y = (tensor.double() for tensor in x_and_y())
    blobs = made(x=x, y=y, keep="all")
    made.loss(blobs).backward()
    fc = nn.functional.linear(x, *made.params["a"]).detach().requires_grad_()
    after = torch.sigmoid(torch.tanh(fc))
    ((after - y).square().sum() / 4).backward()
    torch.testing.assert_close(blobs["a"].detach(), after.detach())
    torch.testing.assert_close(blobs["a"].grad, fc.grad)
    torch.testing.assert_close(made.a.bias.grad, fc.grad.sum(0))


def test_no_gradient_where_nobody_asks():
    made = net(XY + ip("a", "x", "a") + euclid("loss", "a", "y", "top: 'loss'"))
    x, y = x_and_y()
    blobs = made(x=x, y=y, keep="all")
    made.loss(blobs).backward()
    assert blobs["x"].grad is None
    assert blobs["y"].grad is None
    assert blobs["a"].grad is not None


def test_a_callers_gradient():
    made = net(X + ip("a", "x", "a"))
    x = torch.randn(2, 4, requires_grad=True)
    made(x=x)["a"].sum().backward()
    torch.testing.assert_close(x.grad[0], made.a.weight.detach().sum(0))


def test_several_losses():
    made = net(
        XY
        + ip("a", "x", "a", more="loss_weight: 0.5")
        + euclid("first", "a", "y", "top: 'first' loss_weight: 2")
        + euclid("second", "x", "x")
        + euclid("third", "x", "x")
    )
    assert made.loss_weights == {
        "a_a_0_split_0": 0.5,
        "first": 2,
        "(automatic)": 1,
        "(automatic)third": 1,
    }
    x, y = x_and_y()
    blobs = made(x=x, y=y)
    assert set(blobs) == set(made.loss_weights)
    fc = nn.functional.linear(x, *made.params["a"])
    expected = fc.sum() / 2 + 2 * (fc - y).square().sum() / 4
    torch.testing.assert_close(made.loss(blobs), expected)


def test_a_net_without_a_loss():
    text = XY + ip("a", "x", "a") + euclid("loss", "a", "y", "top: 'loss' loss_weight: 0")
    made = net(text)
    assert made.loss_weights == {}
    x, y = x_and_y()
    with pytest.raises(ValueError, match="no loss"):
        made.loss(made(x=x, y=y))


def two_ways(down="", force=""):
    """Two branches from one product; `down` is said of the first."""
    made = net(
        f"{force} {X}"
        + ip("a", "x", "a")
        + neuron("TanH", "a", "b", down)
        + neuron("Sigmoid", "a", "c")
        + "layer { name: 's' type: 'Eltwise' bottom: 'b' bottom: 'c' top: 's' }",
        dtype=torch.float64,
    )
    x, _ = x_and_y()
    blobs = made(x=x.double(), keep="all")
    blobs["s"].sum().backward()
    fc = blobs["a"].detach()
    return made, blobs, 1 - fc.tanh() ** 2, fc.sigmoid() * (1 - fc.sigmoid())


def test_propagate_down_false_cuts_below_the_layer_alone():
    made, blobs, _, sigmoid = two_ways("propagate_down: false")
    torch.testing.assert_close(made.a.bias.grad, sigmoid.sum(0))
    torch.testing.assert_close(blobs["a"].grad, sigmoid)
    assert blobs["a_a_0_split_0"].grad is None
    assert blobs["b"].grad.eq(1).all()


def test_force_backward_overrules_it_and_asks_for_the_inputs():
    made, blobs, tanh, sigmoid = two_ways("propagate_down: false", "force_backward: true")
    torch.testing.assert_close(made.a.bias.grad, (tanh + sigmoid).sum(0))
    torch.testing.assert_close(blobs["x"].grad, (tanh + sigmoid) @ made.a.weight)


def test_propagate_down_true_asks_for_a_blob():
    made = net(X + ip("a", "x", "a", more="propagate_down: true"))
    blobs = made(x=torch.ones(2, 4), keep="x")
    blobs["a"].sum().backward()
    torch.testing.assert_close(blobs["x"].grad[0], made.a.weight.detach().sum(0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_asked_for(mode):
    made = net("force_backward: true " + X + ip("a", "x", "a", more="propagate_down: true"))
    with mode():
        blobs = made(x=torch.ones(2, 4), keep="all")
    assert not any(blob.requires_grad for blob in blobs.values())


def test_lr_mult_of_zero():
    frozen = "param { lr_mult: 0 } param { lr_mult: 2 }"
    made = net(X + ip("a", "x", "a", more=frozen))
    made(x=torch.ones(2, 4))["a"].sum().backward()
    assert made.a.weight.grad is None
    assert made.a.bias.grad.tolist() == [2, 2, 2]
    forced = net("force_backward: true " + X + ip("a", "x", "a", more=frozen))
    forced(x=torch.ones(2, 4))["a"].sum().backward()
    assert forced.a.weight.grad.eq(2).all()


def test_a_frozen_body_is_not_gone_back_through():
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    made = net(X + ip("a", "x", "a", more=frozen) + ip("b", "a", "b"))
    blobs = made(x=torch.ones(2, 4), keep="all")
    assert not blobs["a"].requires_grad
    assert blobs["b"].requires_grad


# Shared parameters


def test_shared_parameters():
    param = "param { name: 'w' } param { name: 'b' }"
    made = net(
        inputs(x=(2, 4), z=(2, 4)) + ip("a", "x", "a", more=param) + ip("b", "z", "b", more=param)
    )
    assert made.a.weight is made.b.weight
    assert len(list(made.parameters())) == 2
    x, z = torch.randn(2, 4), torch.randn(2, 4)
    blobs = made(x=x, z=z)
    (blobs["a"] + blobs["b"]).sum().backward()
    torch.testing.assert_close(made.params["b"][0].grad[0], (x + z).sum(0))
    assert copy.deepcopy(made).a.weight is not made.a.weight
    twin = copy.deepcopy(made)
    assert twin.a.weight is twin.b.weight


@pytest.mark.parametrize(
    ("first", "second", "outputs", "said"),
    [
        ("", "", 4, r"has it as \(3, 4\) and not as \(4, 3\)"),
        ("", "share_mode: PERMISSIVE", 6, r"has it as \(3, 4\) and not as \(6, 4\)"),
        ("lr_mult: 1", "lr_mult: 2", 3, "lr_mult 2 where 1 was given"),
        ("decay_mult: 0", "decay_mult: 1", 3, "decay_mult 1 where 0 was given"),
    ],
)
def test_parameters_that_cannot_be_shared(first, second, outputs, said):
    text = (
        inputs(x=(2, 4), z=(2, 4 if outputs != 4 else 3))
        + ip("a", "x", "a", 3, f"param {{ name: 'w' {first} }}")
        + ip("b", "z", "b", outputs, f"param {{ name: 'w' {second} }}")
    )
    with pytest.raises(ValueError, match=f"layer 'b'.* shares .*{said}"):
        net(text)


# Making it


def test_unknown_types_are_named_before_anything_runs():
    text = X + neuron("PriorBox", "x", "a") + neuron("ReLu", "a", "b")
    said = "'PriorBox_a' is of type 'PriorBox', 'ReLu_b' is of type 'ReLu'"
    with pytest.raises(ValueError, match=said):
        net(text)


def test_a_layer_that_caffe_refuses():
    with pytest.raises(ValueError, match="layer 'a': InnerProduct: num_output must be positive"):
        net(X + ip("a", "x", "a", 0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": torch.ones(2, 4)}, "input 'y', the top of 'y', is missing"),
        ({}, "input 'x', the top of 'x', is missing"),
        (
            {"x": torch.ones(2, 4), "y": torch.ones(2, 3), "z": torch.ones(1)},
            "input 'z' is no data layer's top; they are 'x', 'y'",
        ),
        (
            {"x": torch.ones(2, 5), "y": torch.ones(2, 3)},
            r"layer 'a', with bottoms \(2, 5\): ",
        ),
        ({"x": np.ones((2, 4)), "y": torch.ones(2, 3)}, "input 'x' must be a tensor"),
    ],
)
def test_inputs_that_do_not_fit(given, said):
    made = net(XY + ip("a", "x", "a") + euclid("loss", "a", "y"))
    with pytest.raises(ValueError, match=said):
        made(**given)


def test_names_that_a_module_cannot_have():
    names = ["conv1.a", "conv1_a", "type", "forward", "params", "training", "_steps", ""]
    text = X + "".join(
        ip(name, f"t{i}" if i else "x", f"t{i + 1}", 4) for i, name in enumerate(names)
    )
    made = net(text)
    assert list(made.params) == names
    modules = [name for name, _ in made.named_children()]
    assert modules == [
        "conv1_a", "conv1_a_", "type_", "forward_", "params_", "training_", "_steps_", "_"
    ]  # fmt: skip
    assert made(x=torch.ones(2, 4))["t8"].shape == (2, 4)
    assert "conv1_a_.weight" in made.state_dict()


def test_layers_of_one_name(tmp_path):
    text = X + neuron("ReLU", "x", "r").replace("ReLU_r", "a") + ip("a", "r", "b")
    made = net(text)
    assert [tuple(blob.shape) for blob in made.params["a"]] == [(3, 4), (3,)]
    write_weights({"a": [np.ones((3, 4)), np.zeros(3)]}, tmp_path / "w.h5")
    made.load_weights(tmp_path / "w.h5")
    assert made(x=torch.ones(1, 4))["b"].tolist() == [[4, 4, 4]]


def test_phases_levels_and_stages():
    text = (
        X
        + ip("a", "x", "a", more="include { phase: TRAIN }")
        + ip("b", "x", "b", more="include { phase: TEST min_level: 2 stage: 's' }")
        + ip("c", "x", "c", more="exclude { phase: TEST }")
    )
    assert list(net(text).params) == ["a", "c"]
    assert list(net(text, phase="TEST", level=2, stages=["s"]).params) == ["b"]
    assert list(net(text, phase="TEST", level=1, stages=["s"]).params) == []
    assert net(text).training
    assert not net(text, phase="TEST").training


def test_train_and_eval():
    made = net(X + ip("a", "x", "a"))
    assert made.a.training
    assert not made.eval().a.training
    assert made.train().a.training


def test_the_seed():
    text = X + ip("a", "x", "a")
    assert torch.equal(net(text).a.weight, net(text).a.weight)
    assert not torch.equal(net(text).a.weight, net(text, seed=1).a.weight)
    torch.manual_seed(3)
    first = net(text, seed=None).a.weight
    assert not torch.equal(first, net(text, seed=None).a.weight)
    torch.manual_seed(3)
    assert torch.equal(first, net(text, seed=None).a.weight)


def test_dtype_and_device():
    made = net(X + ip("a", "x", "a"), dtype=torch.float64)
    assert made(x=torch.ones(2, 4, dtype=torch.float64))["a"].dtype == torch.float64
    on_meta = net(X + ip("a", "x", "a"), device="meta")
    assert on_meta(x=torch.ones(2, 4, device="meta"))["a"].device.type == "meta"


def test_the_message_is_left_alone():
    whole = message(X + ip("a", "x", "a") + ip("b", "x", "b"))
    before = copy.deepcopy(whole)
    cmt.Net(whole)
    assert whole == before


def test_copies_and_pickles():
    made = net(XY + ip("a", "x", "a") + euclid("loss", "a", "y", "top: 'loss'"))
    x, y = x_and_y()
    expected = made(x=x, y=y)["loss"]
    stream = io.BytesIO()
    torch.save(made, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(made), torch.load(stream, weights_only=False)):
        assert torch.equal(twin(x=x, y=y)["loss"], expected)
        with torch.no_grad():
            twin.a.weight.zero_()
        assert torch.equal(made(x=x, y=y)["loss"], expected)
    made.load_state_dict(net(made_text := X + ip("a", "x", "a"), seed=5).state_dict())
    assert torch.equal(made.a.weight, net(made_text, seed=5).a.weight)


def test_a_net_learns_with_any_optimizer():
    made = net(XY + ip("a", "x", "a") + euclid("loss", "a", "y", "top: 'loss'"))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    x, y = x_and_y()
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        losses.append(made.loss(made(x=x, y=y)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 100


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("force", ["", "force_backward: true"])
def test_compiles_and_exports(force):
    made = net(force + " " + X + ip("a", "x", "a") + neuron("ReLU", "a", "a") + ip("b", "a", "b"))
    x = torch.randn(2, 4)
    expected = made(x=x)["b"]
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x=x)["b"], expected)
    program = torch.export.export(made, (), {"x": x})
    torch.testing.assert_close(program.module()(x=x)["b"], expected)


class Named(nn.Module):
    """A net whose input has a name of its own, which dynamic shapes need."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x):
        """Return the only output."""
        return self.made(x=x)["b"]


def test_exports_with_any_batch():
    made = net(X + ip("a", "x", "a") + neuron("ReLU", "a", "a") + ip("b", "a", "b"), phase="TEST")
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Named(made), (torch.randn(2, 4),), dynamic_shapes=shapes)
    x = torch.randn(7, 4)
    torch.testing.assert_close(program.module()(x), made(x=x)["b"])


# Shapes that the first batch tells

DEFERRED = (
    "layer { name: 'data' type: 'ImageData' top: 'x' top: 'label' "
    "image_data_param { source: 'list' batch_size: 2 } } "
)


def deferred(**options):
    return net(DEFERRED + ip("a", "x", "a") + neuron("ReLU", "a", "a"), **options)


def batch(dtype=torch.float32):
    return {"x": torch.ones(5, 3, 2, 2, dtype=dtype), "label": torch.zeros(5)}


def test_the_first_batch_builds():
    made = deferred()
    assert made.inputs == ["x", "label"]
    for ask in (made.parameters, made.state_dict, lambda: list(made.named_parameters())):
        with pytest.raises(ValueError, match="known with its first batch; give shapes="):
            list(ask())
    with pytest.raises(ValueError, match="first batch"):
        made.load_state_dict({})
    with pytest.raises(ValueError, match="first batch"):
        _ = made.params
    assert made(**batch())["a"].shape == (5, 3)
    told = deferred(shapes={"x": (1, 3, 2, 2)})
    assert torch.equal(made.a.weight, told.a.weight)
    assert made.state_dict().keys() == told.state_dict().keys()


def test_what_is_done_before_counts():
    made = deferred().double().eval()
    assert made(**batch(torch.float64))["a"].dtype == torch.float64
    assert not made.a.training
    assert deferred(dtype=torch.float64)(**batch(torch.float64))["a"].dtype == torch.float64


def test_a_first_batch_in_inference_can_be_followed_by_training():
    made = deferred()
    with torch.inference_mode():
        made(**batch())
    made(**batch())["a"].sum().backward()
    assert made.a.weight.grad is not None


def test_a_first_batch_that_does_not_fit_changes_nothing():
    made = deferred(weights={"a": [np.ones((3, 12), np.float32), np.zeros(4, np.float32)]})
    for given, said in [
        (
            {"z": torch.ones(1), **batch()},
            "input 'z' is no data layer's top; they are 'x', 'label'",
        ),
        ({"x": torch.ones(1)}, "input 'label'"),
        (batch(), "blob 1: .* to train it anew, rename the layer"),
    ]:
        for _ in range(2):
            with pytest.raises(ValueError, match=said):
                made(**given)
            assert list(made.children()) == []
    with pytest.raises(ValueError, match="known with its first batch"):
        _ = made.params


def test_weights_tell_the_shapes():
    weights = {"a": [np.ones((3, 12), np.float32), np.zeros(3, np.float32)]}
    made = deferred(weights=weights)
    assert made(**batch())["a"].eq(12).all()
    with pytest.raises(ValueError, match="layer 'a', with bottoms"):
        made(x=torch.ones(5, 3, 3, 3), label=torch.zeros(5))


def test_the_authors_training_net_waits_for_its_images():
    if not {"Convolution", "PReLU", "MarginInnerProduct", "SoftmaxWithLoss"} <= LAYERS.keys():
        pytest.skip("types that are still to come")
    made = cmt.Net(MODELS / "sphereface_model.prototxt", phase="TRAIN")
    assert made.inputs == ["data", "label"]
    blobs = made(data=torch.randn(2, 3, 112, 96), label=torch.tensor([0, 10571]))
    assert blobs["softmax_loss"].shape == ()


def test_an_input_of_another_precision_is_told_what_to_do():
    made = net(X + ip("a", "x", "a"))
    with pytest.raises(ValueError, match=r"layer 'a'.*the net is float32, and its bottom float64"):
        made(x=torch.randn(2, 4).double())


def test_a_net_that_waits_keeps_its_device():
    made = cmt.Net(message(DEFERRED + ip("a", "x", "a"))).to("meta")
    made(x=torch.randn(2, 4, device="meta"), label=torch.zeros(2, device="meta"))
    assert made.a.weight.device.type == "meta"


def test_labels_are_as_many_as_the_images_whose_shape_is_given():
    made = cmt.Net(
        MODELS / "sphereface4_model.prototxt", phase="TRAIN", shapes={"data": (2, 3, 112, 96)}
    )
    out = made(data=torch.randn(2, 3, 112, 96), label=torch.tensor([1, 2]))
    assert made.loss(out).isfinite()
    with pytest.raises(ValueError, match="give what the net returned, not Tensor"):
        made.loss(out["softmax_loss"])
    with pytest.raises(ValueError, match=r"layer 'fc5': give a list of its blobs, not ndarray"):
        made.load_weights({"fc5": np.zeros((512, 21504))})


def test_keep_and_dtype_of_no_use_are_named():
    made = net(X + ip("a", "x", "a"))
    for keep, said in ((None, "NoneType"), (3, "int")):
        with pytest.raises(ValueError, match=f"keep must be blobs' names, or 'all', not {said}"):
            made(x=torch.ones(2, 4), keep=keep)
    for dtype in ("float64", np.float64, torch.int64):
        with pytest.raises(ValueError, match="dtype must be one of PyTorch's floats"):
            net(X + ip("a", "x", "a"), dtype=dtype)
