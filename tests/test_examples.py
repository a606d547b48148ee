"""The examples in docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import caffe_margin
import caffe_margin.torch
from helpers.places import MODELS

# pycaffe imports Caffe, and __main__ runs the command.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(caffe_margin.__path__, "caffe_margin.")
    if module.name not in ("caffe_margin.pycaffe", "caffe_margin.__main__")
)


@pytest.mark.parametrize("name", ["caffe_margin", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(MODELS)
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert not failed


PUBLIC = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in (caffe_margin, caffe_margin.torch, caffe_margin.torch.functional)
    for name in sorted(module.__all__)
    if not inspect.ismodule(getattr(module, name))
]


@pytest.mark.parametrize("value", PUBLIC)
def test_every_public_name_has_one(value):
    kind = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    assert doctest.DocTestFinder(recurse=False).find(kind)[0].examples
