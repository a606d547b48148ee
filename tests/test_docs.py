"""The examples in the documentation's pages run."""

import doctest

import pytest

from helpers.places import ROOT


@pytest.mark.parametrize(
    "page",
    [page for page in sorted((ROOT / "docs").glob("*.md")) if ">>>" in page.read_text()],
    ids=lambda page: page.name,
)
def test_examples(page):
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tried
    assert not failed
