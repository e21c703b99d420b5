import doctest
import importlib
import pkgutil

import pytest

import bcos_core

MODULES = ["bcos_core", *(m.name for m in pkgutil.walk_packages(bcos_core.__path__, "bcos_core."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(examples) >= 5
