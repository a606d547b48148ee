import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from google.protobuf import text_format

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets import plugin_text
from helpers import recorded as recordings
from helpers import standin_pycaffe
from helpers.places import ROOT
from helpers.standin_pycaffe import TEST, Blob, PythonLayer

PARAM = """# layer fc6
num_output: 5 type: QUADRUPLE weight_filler { type: "xavier" }
base: 1000 gamma: 0.12 power: 1 lambda_min: 5"""
M, N, K = 4, 5, 6


@pytest.fixture
def layer_class(monkeypatch):
    monkeypatch.setitem(sys.modules, "caffe", standin_pycaffe)
    monkeypatch.delitem(sys.modules, "caffe_margin.pycaffe", raising=False)
    return import_module("caffe_margin.pycaffe").MarginInnerProductLayer


@pytest.fixture
def plugin(layer_class):
    return PythonLayer(layer_class, PARAM, [(M, K), (M,)])


def draw(batch, features=K, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, features)).astype(np.float32)
    return x, (np.arange(batch) % N).astype(np.float32)


def blob_of(array):
    blob = Blob(*array.shape)
    blob.data[...] = array
    return blob


@pytest.fixture
def large_margin_class(layer_class):
    return sys.modules[layer_class.__module__].LargeMarginInnerProductLayer


def plugin_of(layer_class, net, shapes, **kwargs):
    """The plugin as it runs in the rewritten text of a net."""
    net = text_format.Parse(plugin_text.to_python(net).text, pb.NetParameter())
    (layer,) = (layer for layer in net.layer if layer.type == "Python")
    assert layer.python_param.module == "caffe_margin.pycaffe"
    assert layer.python_param.layer == layer_class.__name__
    param_str = layer.python_param.param_str
    return PythonLayer(layer_class, param_str, shapes, tops=len(layer.top), **kwargs)


@pytest.mark.parametrize("path", recordings.recordings("head_sgd_*.npz"))
def test_forty_sgd_iterations(layer_class, path):
    recorded = recordings.load(path)
    solver = text_format.Parse(str(recorded["solver"]), pb.SolverParameter())
    x, labels = recorded["fc5"], recorded["label"]
    head = plugin_of(layer_class, str(recorded["net"]), [x[0].shape, labels[0].shape])
    loss_layer = cm.SoftmaxWithLoss.from_param(pb.LayerParameter(type="SoftmaxWithLoss"))
    weight = head.weight
    weight.data[...] = recorded["weight_before"]

    velocity = np.zeros_like(weight.data)
    rate, losses, lambdas, weights = np.float32(solver.base_lr), [], [], []
    for iteration in range(solver.max_iter):
        if iteration in solver.stepvalue:
            rate *= np.float32(solver.gamma)
        weight.diff[...] = 0
        losses.append(
            loss_layer.forward(head.forward(x[iteration], labels[iteration]), labels[iteration])
        )
        lambdas.append(head.top[1].data[0])
        head.backward(loss_layer.backward())
        weight.diff[...] += np.float32(solver.weight_decay) * weight.data
        velocity = np.float32(solver.momentum) * velocity + rate * weight.diff
        weight.data[...] -= velocity
        if iteration + 1 in recorded["weight_after_iterations"]:
            weights.append(weight.data.copy())

    assert len(losses) == 40
    recordings.assert_blob(np.array(losses, np.float32), recorded["loss"], "loss")
    recordings.assert_blob(np.array(lambdas), recorded["lambda_"], "lambda")
    recordings.assert_blob(np.array(weights), recorded["weight_after"], "weight")


@pytest.mark.parametrize("path", recordings.recordings("*_float32_*.npz"))
def test_recorded_layers(layer_class, path):
    check_recorded(layer_class, path)


@pytest.mark.parametrize("name", ["triple_float32_lambda0", "double_float32_axis2"])
def test_recorded_large_margin(large_margin_class, name):
    check_recorded(large_margin_class, recordings.LARGE_MARGIN / f"{name}.npz")


def test_large_margin_takes_every_named_rule(large_margin_class, monkeypatch):
    """Without numba too."""
    monkeypatch.setattr(sys.modules[large_margin_class.__module__], "find_spec", lambda name: None)
    x, label = draw(M)
    for rule in ("paper", "exact", "detached"):
        param = f"{PARAM} gradient: {rule.upper()}"
        plugin = PythonLayer(large_margin_class, param, [(M, K), (M,)])
        layer = cm.LargeMarginInnerProduct(N, base=1000, gamma=0.12, power=1, gradient=rule)
        layer.weight = plugin.weight.data
        top_diff = np.ones((M, N), np.float32)
        np.testing.assert_array_equal(plugin.forward(x, label), layer.forward(x, label))
        np.testing.assert_array_equal(plugin.backward(top_diff), layer.backward(top_diff))
        np.testing.assert_array_equal(plugin.weight.diff, layer.blobs[0].diff)


def check_recorded(layer_class, path):
    recorded = recordings.load(path)
    x, label = recorded["bottom0_data"], recorded["bottom1_data"]
    plugin = plugin_of(layer_class, str(recorded["layer"]), [x.shape, label.shape])
    plugin.weight.data[...] = recorded["blob0_data_before"]
    plugin.weight.diff[...] = recorded["blob0_diff_before"]
    lambdas = []
    for _ in range(int(recorded["forwards"])):
        plugin.forward(x, label)
        lambdas.append(plugin.top[1].data[0])
    plugin.backward(recorded["top0_diff"])
    recordings.assert_blob(np.array(lambdas), recorded["top1_data"], "lambda")
    recordings.assert_blob(plugin.top[0].data, recorded["top0_data"], "top")
    recordings.assert_blob(plugin.weight.data, recorded["blob0_data"], "weight")
    recordings.assert_blob(plugin.weight.diff, recorded["blob0_diff"], "weight.diff")
    recordings.assert_blob(plugin.bottom[0].diff, recorded["bottom0_diff"], "bottom.diff")


def test_set_up(plugin):
    assert plugin.weight.shape == [N, K]
    assert [top.shape for top in plugin.top] == [[M, N], [1]]
    limit = np.sqrt(3 / K)  # xavier
    assert 0.5 * limit < np.abs(plugin.weight.data).max() <= limit


def test_numpys_seed_repeats_the_weight(layer_class):
    np.random.seed(7)  # noqa: NPY002
    first = PythonLayer(layer_class, PARAM, [(M, K), (M,)]).weight.data
    np.random.seed(7)  # noqa: NPY002
    second = PythonLayer(layer_class, PARAM, [(M, K), (M,)]).weight.data
    other = PythonLayer(layer_class, PARAM, [(M, K), (M,)]).weight.data
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_weight_of_the_message_is_not_refilled(layer_class):
    weight = np.arange(N * K, dtype=np.float32).reshape(N, K)
    plugin = PythonLayer(layer_class, PARAM, [(M, K), (M,)], blobs=[blob_of(weight)])
    np.testing.assert_array_equal(plugin.weight.data, weight)
    with pytest.raises(ValueError, match=r"layer 'fc6' is \(5, 7\)"):
        PythonLayer(layer_class, PARAM, [(M, K), (M,)], blobs=[Blob(N, 7)])


def test_works_in_caffes_memory(layer_class):
    plugin = PythonLayer(layer_class, PARAM, [(M, K), (M,)])
    arrays = [plugin.top[0].data, plugin.bottom[0].diff, plugin.weight.data, plugin.weight.diff]
    plugin.forward(*draw(M))
    plugin.backward(np.ones((M, N)))
    for array in arrays:
        assert np.isfinite(array).all()
        assert array.any()
    # PAPER leaves the weight with rows of length 1.
    np.testing.assert_allclose(np.linalg.norm(arrays[2], axis=1), 1, rtol=1e-6)


def test_exact_gradient(layer_class):
    plugin = PythonLayer(layer_class, PARAM + " gradient: EXACT", [(M, K), (M,)])
    assert plugin.layer.layer.gradient == cm.EXACT
    before = plugin.weight.data.copy()
    plugin.forward(*draw(M))
    plugin.backward(np.ones((M, N)))
    np.testing.assert_array_equal(plugin.weight.data, before)
    # The exact gradient knows that the length of a row does not matter.
    along = np.einsum("jk,jk->j", plugin.weight.diff, before)
    np.testing.assert_allclose(along, 0, atol=1e-5)


def test_detached_gradient(layer_class):
    plugin = PythonLayer(layer_class, PARAM + " gradient: DETACHED", [(M, K), (M,)])
    layer = cm.MarginInnerProduct(N, gradient="detached")
    layer.weight = plugin.weight.data
    np.testing.assert_array_equal(plugin.forward(*draw(M)), layer.forward(*draw(M)))
    top_diff = np.ones((M, N), np.float32)
    np.testing.assert_array_equal(plugin.backward(top_diff), layer.backward(top_diff))
    np.testing.assert_array_equal(plugin.weight.diff, layer.blobs[0].diff)
    np.testing.assert_array_equal(plugin.weight.data, layer.weight)


def test_weight_diff_is_added_to_and_bottom_diff_set(plugin):
    plugin.forward(*draw(M))
    once = plugin.backward(np.ones((M, N))).copy()
    added = plugin.weight.diff.copy()
    np.testing.assert_array_equal(plugin.backward(), once)
    np.testing.assert_allclose(plugin.weight.diff, 2 * added, rtol=1e-6)


def test_propagate_down(plugin):
    plugin.forward(*draw(M))
    plugin.bottom[0].diff[...] = 9
    plugin.backward(np.ones((M, N)), (False, False))
    assert (plugin.bottom[0].diff == 9).all()
    assert plugin.weight.diff.any()


def test_batch_size_may_change(layer_class, plugin):
    weight = plugin.weight.data.copy()
    for batch in (M, 100, 3, 100):
        x, label = draw(batch, seed=batch)
        top = plugin.forward(x, label)
        assert top.shape == (batch, N)
        diff = plugin.backward(np.ones((batch, N)))
        alone = PythonLayer(layer_class, PARAM, [(batch, K), (batch,)])
        alone.weight.data[...] = weight
        alone.layer.layer.iteration = plugin.layer.layer.iteration - 1
        np.testing.assert_allclose(alone.forward(x, label), top, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone.backward(np.ones((batch, N))), diff, rtol=1e-5, atol=1e-6)


def test_backward_on_other_memory_than_forward_saw(plugin):
    with pytest.raises(ValueError, match="'fc6': backward needs a forward before it"):
        plugin.backward()
    x, label = draw(M)
    plugin.forward(x, label)
    plugin.bottom[0].reshape(100, K)
    plugin.bottom[0].reshape(M, K)
    with pytest.raises(ValueError, match="'fc6': backward needs a forward before it"):
        plugin.backward()
    plugin.forward(x, label)
    plugin.backward(np.ones((M, N)))


def test_one_top(layer_class, plugin):
    one = PythonLayer(layer_class, PARAM, [(M, K), (M,)], tops=1)
    one.weight.data[...] = plugin.weight.data
    np.testing.assert_array_equal(one.forward(*draw(M)), plugin.forward(*draw(M)))


@pytest.mark.parametrize("phase", [standin_pycaffe.TRAIN, TEST])
def test_iteration_starts_where_it_is_told(layer_class, phase):
    plugin = PythonLayer(layer_class, PARAM + " iteration: 99", [(M, K), (M,)], phase=phase)
    lambdas = []
    for _ in range(2):
        plugin.forward(*draw(M))
        lambdas.append(plugin.top[1].data[0])
    np.testing.assert_allclose(lambdas, [1000 / 13, 1000 / 13.12], rtol=1e-6)
    assert plugin.layer.layer.iteration == 101


def test_flattens_from_the_axis_on(layer_class):
    x, label = draw(M)
    flat = PythonLayer(layer_class, PARAM, [(M, K), (M,)])
    deep = PythonLayer(layer_class, PARAM, [(M, 2, 3), (M,)])
    deep.weight.data[...] = flat.weight.data
    np.testing.assert_array_equal(deep.forward(x.reshape(M, 2, 3), label), flat.forward(x, label))
    deep_diff = deep.backward(np.ones((M, N)))
    assert deep_diff.shape == (M, 2, 3)
    np.testing.assert_array_equal(deep_diff.reshape(M, K), flat.backward(np.ones((M, N))))


@pytest.mark.parametrize(
    ("param_str", "message"),
    [
        ("# layer fc6\nnum_output: 5\nlamda_min: 5", "'fc6':3:1: 'lamda_min' is no field .*min'"),
        ("num_output: 5 lamda_min: 5", "param_str of layer 'MarginInnerProductLayer':1:15"),
        ("# layer fc6\n", "layer 'fc6': num_output must be positive"),
        (PARAM + " axis: 4", "layer 'fc6': axis 4 is out of range"),
        (PARAM.replace("xavier", "xaver"), "layer 'fc6': .*did you mean 'xavier'"),
    ],
)
def test_errors_of_setup(layer_class, param_str, message):
    with pytest.raises(ValueError, match=message):
        PythonLayer(layer_class, param_str, [(M, K), (M,)])


def test_exact_gradient_without_numba(layer_class, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    message = (
        "^layer 'fc6': gradient: EXACT needs numba, which is not installed: pip install numba$"
    )
    with pytest.raises(ValueError, match=message):
        PythonLayer(layer_class, PARAM + " gradient: EXACT", [(M, K), (M,)])
    PythonLayer(layer_class, PARAM, [(M, K), (M,)])


@pytest.mark.parametrize(
    ("bottoms", "tops", "message"),
    [
        (1, 1, "bottoms must be 2, and is 1"),
        (3, 1, "bottoms must be 2, and is 3"),
        (2, 0, "tops must be at least 1, and is 0"),
        (2, 3, "tops must be at most 2, and is 3"),
    ],
)
def test_number_of_blobs(layer_class, bottoms, tops, message):
    with pytest.raises(ValueError, match=f"'fc6': the number of {message}"):
        PythonLayer(layer_class, PARAM, [(M, K), (M,), (M,)][:bottoms], tops=tops)


def test_errors_of_forward_leave_the_state(plugin):
    x, label = draw(M)
    weight = plugin.weight.data.copy()
    label[2] = N
    with pytest.raises(ValueError, match=r"row 2 of .* layer 'fc6' is label 5\.0"):
        plugin.forward(x, label)
    with pytest.raises(ValueError, match=r"\(4, 7\), which makes K 7, .* layer 'fc6' is \(5, 6\)"):
        plugin.forward(*draw(M, features=7))
    assert plugin.layer.layer.iteration == 0
    np.testing.assert_array_equal(plugin.weight.data, weight)


def test_any_error_names_the_layer(plugin, monkeypatch):
    def fails(bottom):
        raise MemoryError("out of it")

    monkeypatch.setattr(plugin.layer.layer, "check", fails)
    with pytest.raises(RuntimeError, match="layer 'fc6': MemoryError: out of it") as caught:
        plugin.forward(*draw(M))
    assert isinstance(caught.value.__cause__, MemoryError)


def test_import_beside_caffes_own_schema():
    # pycaffe has registered caffe.proto, with messages of the same names, in the same pool.
    script = """if True:
        import sys
        import standin_pycaffe
        from google.protobuf import descriptor_pb2, descriptor_pool, text_format
        from caffe_margin import caffe_margin_pb2 as pb

        file = descriptor_pb2.FileDescriptorProto()
        pb.DESCRIPTOR.CopyToProto(file)
        text = text_format.MessageToString(file).replace(".caffe_margin.", ".caffe.")
        file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        file.name, file.package = "caffe.proto", "caffe"
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        descriptor_pool.Default().FindMessageTypeByName("caffe.LayerParameter")

        sys.modules["caffe"] = standin_pycaffe
        import caffe_margin.pycaffe
        print(*sorted({"numba", "rich", "matplotlib"} & sys.modules.keys()))
    """
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "helpers")},
        capture_output=True,
        text=True,
    )
    assert (ran.stdout, ran.stderr) == ("\n", "")
