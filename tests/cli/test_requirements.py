import math

import pytest
import torch

from bcos_cli.evaluate.requirements import Condition
from bcos_cli.evaluate.result import Evaluation
from bcos_core import BcosError
from bcos_explain.metrics import MetricResult


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top1>=0.9", Condition("top1", ">=", 0.9)),
        (" gridpg/bcos < 1e-1", Condition("gridpg/bcos", "<", 0.1)),
        ("loss<=2", Condition("loss", "<=", 2.0)),
        ("a.b>-1", Condition("a.b", ">", -1.0)),
    ],
)
def test_conditions_are_read(text, expected):
    assert Condition.parse(text) == expected


@pytest.mark.parametrize("text", ["top1", "top1=0.9", ">=1", "top1>=high", "top1>=", "top1>=1e"])
def test_other_forms_are_refused(text):
    with pytest.raises(BcosError, match="a condition reads METRIC>=VALUE"):
        Condition.parse(text)


@pytest.mark.parametrize(
    ("text", "holds"),
    [("m>=0.5", True), ("m>0.5", False), ("m<=0.5", True), ("m<0.5", False), ("m>=0.6", False), ("m<0.6", True)],
)
def test_conditions_hold_or_say_by_how_much_they_fail(text, holds):
    reason = Condition.parse(text).failure({"m": 0.5}, {})
    assert (reason is None) == holds
    assert holds or reason == f"m is 0.5, needed {text[1:].rstrip('0.56')} {text.lstrip('m<>=')}"


def test_what_is_undefined_fails_in_both_directions():
    for text in ("m>=0.5", "m<0.5"):
        reason = Condition.parse(text).failure({"m": math.nan}, {})
        assert reason == f"m is undefined for every image, needed {text[1:-3]} 0.5"


def test_what_could_not_be_measured_fails_and_what_was_not_asked_for_is_a_mistake():
    condition = Condition.parse("gridpg/bcos>=0.5")
    assert condition.failure({}, {"gridpg": "too few"}) == "gridpg/bcos was not measured: too few"
    assert condition.failure({}, {"gridpg/bcos": "none"}) == "gridpg/bcos was not measured: none"
    with pytest.raises(BcosError, match="there is no score 'gridpg/bcos'; did you mean 'gridpg/gradcam'"):
        condition.failure({"gridpg/gradcam": 1.0}, {})


def evaluation(explanations, skipped):
    empty = Evaluation.__new__(Evaluation)
    empty.explanations, empty.skipped, empty.metrics = explanations, skipped, {"top1": 0.7}
    return empty


def test_contributions_that_do_not_add_up_fail():
    exact = {"completeness": {"": MetricResult(scores=torch.tensor([1e-8, 5e-7]))}}
    wrong = {"completeness": {"": MetricResult(scores=torch.tensor([1e-7, 3e-3, 2e-2]))}}
    assert evaluation(exact, {}).failures([]) == []
    (reason,) = evaluation(wrong, {}).failures([])
    assert "contributions and bias of 2 of 3 images miss the logit by more than 1e-06" in reason
    assert "at most by 2.0e-02" in reason
    assert evaluation({}, {"completeness": "frozen"}).failures([]) == ["completeness failed: frozen"]
    assert evaluation(exact, {}).failures([Condition.parse("top1>0.8")]) == ["top1 is 0.7, needed > 0.8"]
