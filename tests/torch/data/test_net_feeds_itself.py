"""A net whose data layers have sources takes its own batches."""

import copy

import pytest
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from helpers.data_layers import recordings, same_bits

TEXT = """
layer { name: "images" type: "ImageData" top: "data" top: "label"
  transform_param { mean_value: 127.5 mean_value: 127.5 mean_value: 127.5 scale: 0.0078125
    mirror: true }
  image_data_param { source: "images/list_shuffle.txt" root_folder: "images/" batch_size: 4
    shuffle: true } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def make(text=TEXT, **options):
    return cmt.Net(text_format.Parse(text, pb.NetParameter()), phase="TRAIN", seed=12, **options)


@pytest.fixture
def here(caffe_data, monkeypatch):
    monkeypatch.chdir(caffe_data)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_takes_caffes_batches(here):
    net = make()
    assert net.params["fc"][0].shape == (3, 3 * 44 * 37)  # from the first image
    recording = recordings()["image_sphereface_train"]
    for i in range(4):
        blobs = net(keep=["data", "label"])
        tops = {top: recording[f"forward/{i}/{top}"] for top in ("data", "label")}
        assert same_bits({top: blobs[top] for top in tops}, tops)
    net.sources["images"].iteration = 1
    assert same_bits({"label": net()["label"]}, {"label": recording["forward/1/label"]})


def test_fed_by_name_it_opens_nothing(elsewhere):
    net = make(shapes={"data": (2, 3, 4, 4), "label": (2,)})
    assert net(data=torch.zeros(2, 3, 4, 4), label=torch.zeros(2))["fc"].shape == (2, 3)
    assert net.sources["images"].iteration == 0
    with pytest.raises(FileNotFoundError, match=r"'images' \(ImageData\): there is no list"):
        net()


def test_waits_for_a_batch_where_the_source_is_missing(elsewhere):
    net = make()
    with pytest.raises(ValueError, match="known with its first batch"):
        list(net.parameters())
    net(data=torch.zeros(2, 3, 4, 4), label=torch.zeros(2))
    assert net.params["fc"][0].shape == (3, 48)


def test_a_batch_is_taken_once_and_only_when_asked(here):
    net = make()
    with pytest.raises(ValueError, match="'lable' is no data layer's top"):
        net(lable=torch.zeros(4))
    with pytest.raises(ValueError, match="input 'label', the top of 'images', is missing"):
        net(data=torch.zeros(4, 3, 44, 37))
    assert net.sources["images"].iteration == 0


def test_all_layers_or_none_go_on(here):
    second = TEXT[: TEXT.index('layer { name: "fc"')]
    for old, new in [("images", "more"), ("data", "data2"), ("label", "label2")]:
        second = second.replace(f'"{old}"', f'"{new}"')
    net = make(TEXT + second.replace("list_shuffle", "list_missing_later"), shapes={})
    for _ in range(2):
        with pytest.raises(ValueError, match="line 3: No such file"):
            net()
        assert [source.iteration for source in net.sources.values()] == [0, 0]


def test_a_copy_goes_on_by_itself(here):
    net = make()
    net()
    other = copy.deepcopy(net)
    first, second = net()["fc"], net()["fc"]
    assert torch.equal(other()["fc"], first)
    assert torch.equal(other()["fc"], second)


def test_batches_have_the_parameters_dtype(here):
    net = make(dtype=torch.float64)
    blobs = net(keep="all")
    assert {name: blob.dtype for name, blob in blobs.items()} == dict.fromkeys(
        ("data", "label", "fc"), torch.float64
    )
    blobs = net.bfloat16()(keep="all")
    assert blobs["data"].dtype == torch.bfloat16
    assert blobs["label"].dtype == torch.float32
