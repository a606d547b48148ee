"""What Caffe's data layers were recorded on, unpacked once."""

import pytest

from helpers.data_layers import unpack


@pytest.fixture(scope="session")
def caffe_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caffe_data")
    unpack(folder)
    return folder
