import doctest
import importlib

import pytest
import torch


@pytest.mark.parametrize(
    "name", ["bcos_explain.registry", "bcos_explain.metrics.confident_images", "bcos_explain.quantus"]
)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0
