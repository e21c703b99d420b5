"""Rules of other packages, by entry point."""

import pytest
import torch
from torch import nn

from bcos_core import BcosError, explain, plugins
from bcos_core.rules import table

RULES = {torch.lgamma: lambda function, x: function(x.detach())}
BROKEN = {torch.lgamma: 3}


class Gated(nn.Module):
    def forward(self, x):
        return x * torch.lgamma(x)


@pytest.fixture
def entry_points(monkeypatch):
    """Install entry points, each with what it loads; rules and what is loaded are put back afterwards."""
    before = dict(table.RULES)

    def install(**loaded):
        class Entry:
            def __init__(self, name, value):
                self.name, self.value, self._loaded, self.dist = name, f"somewhere:{name}", value, None

            def load(self):
                if isinstance(self._loaded, BaseException):
                    raise self._loaded
                return self._loaded

        monkeypatch.setattr(plugins, "entry_points", lambda group: [Entry(n, v) for n, v in loaded.items()])
        table.load_rules.cache_clear()

    yield install
    table.load_rules.cache_clear()
    table.RULES.clear()
    table.RULES.update(before)


def test_rules_of_a_package_are_used(entry_points):
    x = torch.rand(2, 3).double() + 2
    entry_points()
    with pytest.raises(BcosError, match=r"no rule for torch\.lgamma"):
        explain(Gated(), x)
    entry_points(theirs=RULES)
    e = explain(Gated(), x, target=1)
    torch.testing.assert_close(e.weight[:, 1], torch.lgamma(x[:, 1]))


@pytest.mark.parametrize(
    "broken",
    [BROKEN, [], 3, ImportError("no such module"), SystemExit(0)],
    ids=["no rule", "a list", "a number", "no module", "an exit"],
)
def test_broken_package_is_named_and_the_others_keep_working(entry_points, broken):
    entry_points(a_broken=broken, theirs=RULES)
    with pytest.warns(
        UserWarning, match=r"rules of the plugin \?:a_broken \(entry point somewhere:a_broken of \?\) are not used: "
    ):
        explain(Gated(), torch.rand(2, 3).double() + 2)


@pytest.mark.parametrize("taken", [torch.relu, torch.Tensor.relu_, torch.reshape, torch.max, torch.lgamma])
def test_rule_of_a_package_replaces_none_that_is_there(entry_points, taken):
    entry_points(a_first=RULES, b_second={taken: RULES[torch.lgamma]})
    with pytest.warns(
        UserWarning, match=r"plugin \?:b_second .* are not used: BcosError: torch.* has a rule already; "
    ):
        explain(Gated(), torch.rand(2, 3).double() + 2)
    assert table.RULES.get(taken) is not RULES[torch.lgamma] or taken is torch.lgamma
