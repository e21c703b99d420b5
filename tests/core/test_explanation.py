import dataclasses
import re

import pytest
import torch

from bcos_core import BcosError, Explanation, display


@pytest.fixture
def images():
    """Two images (2, 2, 1, 3), one target each."""
    x = torch.arange(12.0).reshape(2, 2, 1, 3)
    zeros = torch.zeros(2)
    return Explanation(
        input=x,
        logits=torch.zeros(2, 4),
        target=zeros.long(),
        score=zeros + 7,
        weight=x + 1,
        bias=zeros + 0.5,
    )


def test_contributions_are_weight_times_input(images):
    assert torch.equal(images.contributions, images.input * images.weight)


def test_map_sums_channels(images):
    assert images.map.shape == (2, 1, 3)
    assert images.map[0, 0].tolist() == [0 * 1 + 3 * 4, 1 * 2 + 4 * 5, 2 * 3 + 5 * 6]


def test_residual_is_what_is_missing(images):
    total = sum(i * (i + 1) for i in range(6))
    assert images.residual[0] == 7 - total - 0.5


def test_targets_are_the_second_dimension():
    x, weight = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 3, 4, 5)
    zeros = torch.zeros(2, 6)
    e = Explanation(x, torch.zeros(2, 9), zeros.long(), zeros, weight, zeros)
    assert e.contributions.shape == (2, 6, 3, 4, 5)
    torch.testing.assert_close(e.contributions[1, 4], x[1] * weight[1, 4])
    torch.testing.assert_close(e.map, e.contributions.sum(2))
    torch.testing.assert_close(e.residual, -e.contributions.double().sum((2, 3, 4)))


@pytest.mark.parametrize("targets", [(), (6,)])
def test_map_of_vectors_is_the_contributions(targets):
    x, weight, zeros = torch.rand(2, 3), torch.rand(2, *targets, 3), torch.zeros(2, *targets)
    e = Explanation(x, torch.zeros(2, 9), zeros.long(), zeros, weight, zeros)
    assert torch.equal(e.map, e.contributions)
    assert e.map.shape == (2, *targets, 3)


def test_explanation_is_immutable(images):
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.bias = torch.zeros(2)


def test_bias_terms_are_empty_unless_given(images):
    assert images.bias_terms == {}


@pytest.fixture
def alone(monkeypatch):
    """No package that draws is there."""
    monkeypatch.setattr(display, "_renderers", [])


def test_notebook_shows_a_table_that_adds_up(alone, images):
    html = images._repr_html_()
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    assert re.findall(r"<th>(.*?)</th>", rows[0]) == ["image", "target", "score", "contributions", "bias", "residual"]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows[1:]]
    assert [c[:3] for c in cells] == [["0", "0", "7"], ["1", "0", "7"]]
    for i, (*_, contributions, bias, residual) in enumerate(cells):
        assert float(contributions) == images.contributions[i].sum()
        assert float(bias) == 0.5
        assert float(residual) == pytest.approx(float(images.residual[i]), rel=1e-3)


def test_table_of_many_is_cut(alone):
    x, weight, zeros = torch.rand(9, 3), torch.rand(9, 2, 3), torch.zeros(9, 2)
    html = Explanation(x, torch.zeros(9, 4), zeros.long(), zeros, weight, zeros)._repr_html_()
    assert html.count("<tr>") == 13
    assert "… and 6 more" in html


def test_function_that_a_package_registers_draws_it(alone, images):
    display.register_html("builtins:repr")
    assert images._repr_html_() == repr(images)
    display.register_html("bcos_core.targets:callable")  # a name that is not there
    with pytest.raises(BcosError, match=r"cannot load 'bcos_core.targets:callable'"):
        images._repr_html_()
