"""The files in models/ against the tool that writes them, the paper and the authors' files."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import TypeVar

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

import generated
import make_models
from caffe_margin import caffe_margin_pb2 as pb
from helpers.places import MODELS

STEMS = {
    4: "sphereface4",
    10: "sphereface10",
    20: "sphereface",
    36: "sphereface36",
    64: "sphereface64",
}
# The paper's table 2: the residual units in each stage.
UNITS = {4: (0, 0, 0, 0), 10: (0, 1, 2, 0), 20: (1, 2, 4, 1), 36: (2, 4, 8, 2), 64: (3, 8, 16, 3)}

M = TypeVar("M", bound=Message)


def read(name: str, message: M) -> M:
    # text_format refuses a field that the schema lacks.
    return text_format.Parse((MODELS / name).read_text(), message)


def net(depth: int, kind: str) -> pb.NetParameter:
    return read(f"{STEMS[depth]}_{kind}.prototxt", pb.NetParameter())


def solver(depth: int) -> pb.SolverParameter:
    return read(f"{STEMS[depth]}_solver.prototxt", pb.SolverParameter())


def test_files_are_what_the_tool_writes() -> None:
    expected = make_models.make_models()
    assert set(expected) == set(MODELS.iterdir())
    for path, text in expected.items():
        assert path.read_text() == text, f"{path.name} is stale: run python tools/make_models.py"


def test_check_names_the_stale_files_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["make_models.py", *arguments])
        return generated.main("", make_models.make_models, "make_models")

    monkeypatch.setattr(generated, "ROOT", tmp_path)
    monkeypatch.setattr(make_models, "MODELS", tmp_path)
    assert run("--check") == 1
    assert not list(tmp_path.iterdir())
    assert len(capsys.readouterr().out.splitlines()) == 22

    assert run() == 0
    assert run("--check") == 0
    (tmp_path / "sphereface_solver.prototxt").write_text("net: 'another'")
    capsys.readouterr()
    assert run("--check") == 1
    assert capsys.readouterr().out.startswith("sphereface_solver.prototxt is stale")
    assert (tmp_path / "sphereface_solver.prototxt").read_text() == "net: 'another'"


# SHA-256 of the messages in the authors' own three files (wy1iu/sphereface, train/code), parsed
# with this schema and serialized with deterministic=True.
@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("model", "7d6a284584a2029d478966a1107d9d32f3f403e6cbd4cee4e3799bcb0e30ef6c"),
        ("deploy", "981935b9e11d268d8987d8f8add2afb2b53dc24b92c419f95653c03c30107bd5"),
        ("solver", "90fde208afec75d20a4714884a608e864e4dc54b88fe9361e9d6ec77cc25c9f1"),
    ],
)
def test_sphereface_20_says_what_the_authors_files_say(kind: str, digest: str) -> None:
    message = solver(20) if kind == "solver" else net(20, kind)
    assert hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest() == digest


@pytest.mark.parametrize("depth", STEMS)
@pytest.mark.parametrize("kind", ["model", "deploy"])
def test_layer_counts(depth: int, kind: str) -> None:
    counts = Counter(layer.type for layer in net(depth, kind).layer)
    expected = {
        # The paper's depth counts the convolutions: 4 + 2 a unit.
        "Convolution": depth,
        "PReLU": depth,
        "Eltwise": (depth - 4) // 2,
        "InnerProduct": 1,
    }
    if kind == "model":
        expected |= {"ImageData": 1, "MarginInnerProduct": 1, "SoftmaxWithLoss": 1}
    assert +counts == +Counter(expected)


@pytest.mark.parametrize("depth", STEMS)
def test_deploy_is_the_net_without_data_and_loss(depth: int) -> None:
    train, deploy = net(depth, "model"), net(depth, "deploy")
    assert list(deploy.layer) == list(train.layer)[1:-2]
    assert deploy.name == train.name == f"SpherefaceNet-{depth}"
    assert list(deploy.input) == ["data"]
    assert list(deploy.input_dim) == [1, 3, 112, 96]


@pytest.mark.parametrize("depth", STEMS)
def test_every_bottom_is_the_top_of_a_layer_above(depth: int) -> None:
    tops: set[str] = set()
    names: set[str] = set()
    for layer in net(depth, "model").layer:
        assert set(layer.bottom) <= tops
        assert layer.name not in names
        tops |= set(layer.top)
        names.add(layer.name)


def count_parameters(net: pb.NetParameter) -> int:
    """Count by walking the file, with the sizes of the blobs worked out on the way."""
    shapes = {"data": (3, 112, 96)}
    count = 0
    for layer in net.layer:
        if layer.type == "Convolution":
            (channels, *image), conv = shapes[layer.bottom[0]], layer.convolution_param
            (kernel,), (stride,), (pad,) = conv.kernel_size, conv.stride, conv.pad
            height, width = ((size + 2 * pad - kernel) // stride + 1 for size in image)
            shapes[layer.top[0]] = (conv.num_output, height, width)
            count += conv.num_output * (channels * kernel**2 + 1)
        elif layer.type == "PReLU":
            count += shapes[layer.bottom[0]][0]
        elif layer.type == "Eltwise":
            first, second = (shapes[bottom] for bottom in layer.bottom)
            assert first == second
            shapes[layer.top[0]] = first
        elif layer.type == "InnerProduct":
            assert shapes[layer.bottom[0]] == (512, 7, 6)
            features = layer.inner_product_param.num_output
            count += features * (math.prod(shapes[layer.bottom[0]]) + 1)
        elif layer.type == "MarginInnerProduct":
            count += layer.margin_inner_product_param.num_output * features
    return count


@pytest.mark.parametrize("depth", STEMS)
def test_parameter_counts(depth: int) -> None:
    channels = (64, 128, 256, 512)
    openings = sum(9 * a * b + b for a, b in zip((3, 64, 128, 256), channels, strict=True))
    residuals = sum(
        2 * units * (9 * c * c + c) for units, c in zip(UNITS[depth], channels, strict=True)
    )
    slopes = sum(c * (1 + 2 * units) for units, c in zip(UNITS[depth], channels, strict=True))
    feature = 512 * 7 * 6 * 512 + 512
    classes = 10572 * 512
    assert count_parameters(net(depth, "deploy")) == openings + residuals + slopes + feature
    assert count_parameters(net(depth, "model")) == (
        openings + residuals + slopes + feature + classes
    )


def test_parameter_count_of_sphereface_20() -> None:
    # Convolutions that open a stage, in units, slopes, fc5 and fc6, worked out on paper.
    assert count_parameters(net(20, "model")) == (
        (1_792 + 73_856 + 295_168 + 1_180_160)
        + (2 * 36_928 + 4 * 147_584 + 8 * 590_080 + 2 * 2_359_808)
        + (3 * 64 + 5 * 128 + 9 * 256 + 3 * 512)
        + 11_010_560
        + 5_412_864
    )


@pytest.mark.parametrize("depth", STEMS)
def test_the_loss(depth: int) -> None:
    *_, margin, loss = net(depth, "model").layer
    param = margin.margin_inner_product_param
    assert (margin.name, margin.type) == ("fc6", "MarginInnerProduct")
    assert list(margin.bottom) == ["fc5", "label"]
    assert list(margin.top) == ["fc6", "lambda"]
    assert param.num_output == 10572
    assert param.type == pb.MarginInnerProductParameter.QUADRUPLE
    assert (param.base, param.power, param.lambda_min, param.iteration) == (1000, 1, 5, 0)
    assert param.gamma == pytest.approx(0.12, rel=1e-7)
    assert param.weight_filler.type == "xavier"
    assert not param.HasField("gradient")
    assert loss.type == "SoftmaxWithLoss"


@pytest.mark.parametrize("depth", STEMS)
def test_convolutions_open_a_stage_or_stand_in_a_unit(depth: int) -> None:
    for layer in net(depth, "model").layer:
        if layer.type != "Convolution":
            continue
        param = layer.convolution_param
        opens = layer.name.endswith("_1")
        assert param.num_output == 64 * 2 ** (int(layer.name[4]) - 1)
        assert list(param.stride) == [2 if opens else 1]
        assert param.weight_filler.type == ("xavier" if opens else "gaussian")
        assert [spec.lr_mult for spec in layer.param] == [1, 2 if opens else 0]
        assert [spec.decay_mult for spec in layer.param] == [1, 0]
        if not opens:
            assert param.weight_filler.std == pytest.approx(0.01, rel=1e-7)


@pytest.mark.parametrize("depth", STEMS)
def test_the_solver(depth: int) -> None:
    message = solver(depth)
    assert message.net == f"code/{STEMS[depth]}_model.prototxt"
    assert (MODELS / message.net.removeprefix("code/")).exists()
    assert message.snapshot_prefix == f"result/{STEMS[depth]}_model"
    assert message.lr_policy == "multistep"
    assert list(message.stepvalue) == [16000, 24000, 28000]
    assert message.max_iter == 28000
    assert message.solver_mode == pb.SolverParameter.GPU
    assert [message.base_lr, message.gamma, message.momentum, message.weight_decay] == (
        pytest.approx([0.1, 0.1, 0.9, 0.0005], rel=1e-6)
    )


NUMERALS = {"numerals2d": 2, "numerals3d": 3}


@pytest.mark.parametrize("stem", NUMERALS)
def test_the_numerals_features_can_be_looked_at(stem: str) -> None:
    net = read(f"{stem}_model.prototxt", pb.NetParameter())
    data, *body, feature, margin, loss = net.layer
    assert [layer.type for layer in body] == ["Convolution", "PReLU"] * (len(body) // 2)
    assert feature.inner_product_param.num_output == NUMERALS[stem]
    assert list(margin.bottom) == [*feature.top, "label"]
    param = margin.margin_inner_product_param
    assert (margin.type, param.num_output) == ("MarginInnerProduct", 10)
    assert param.type == pb.MarginInnerProductParameter.QUADRUPLE
    assert loss.type == "SoftmaxWithLoss"
    assert data.data_param.source == "numerals/train"
    assert (data.transform_param.mean_value, data.transform_param.scale) == ([127.5], 1 / 128)


@pytest.mark.parametrize("stem", NUMERALS)
def test_the_numerals_solver(stem: str) -> None:
    message = read(f"{stem}_solver.prototxt", pb.SolverParameter())
    assert message.net == f"models/{stem}_model.prototxt"
    assert message.snapshot_prefix == f"numerals/{stem}_model"
    assert message.lr_policy == "multistep"
    assert list(message.stepvalue) == sorted(message.stepvalue)
    assert message.stepvalue[-1] < message.max_iter


@pytest.mark.parametrize("stem", NUMERALS)
def test_lambda_min_lets_features_grow_under_the_papers_rule(stem: str) -> None:
    """Of a feature at its own weight, among ten spread evenly, descent must not shorten it."""
    margin = read(f"{stem}_model.prototxt", pb.NetParameter()).layer[-2]
    # In space that is the problem of Tammes, whose answer for ten is 66.15 degrees.
    nearest = {"numerals2d": 36, "numerals3d": 66.15}[stem]
    lambda_ = margin.margin_inner_product_param.lambda_min
    for m in (2, 3, 4):
        coeff_w, coeff_x = m**2, -(m**2 - 1) / 30
        radial = 1 / math.hypot(coeff_w, coeff_x)
        assert (radial + lambda_) / (1 + lambda_) > math.cos(math.radians(nearest))
