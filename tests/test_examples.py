"""The examples in docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import caffe_margin
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


@pytest.mark.parametrize("name", sorted(caffe_margin.__all__))
def test_every_public_name_has_one(name):
    value = getattr(caffe_margin, name)
    kind = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    assert doctest.DocTestFinder(recurse=False).find(kind)[0].examples
