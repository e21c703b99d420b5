"""Every metric of every explainer on every network."""

import builtins
import json
from types import SimpleNamespace

import pytest
import torch
from explained_networks import calibrated

from bcos_core import AddInverse, BcosError
from bcos_explain import compare, get_explainer
from bcos_explain.metrics import MetricResult, grid_pointing_game, sparseness

IMAGES = torch.rand(12, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def nets():
    return {"first": calibrated("bcos_rgb")[0], "second": calibrated("bcos_rgb")[0]}


def test_a_row_is_what_the_metric_gives_by_itself(nets):
    table = compare(nets, ["bcos", "gradient"], ["sparseness", "completeness"], IMAGES, encode=AddInverse())
    assert [(r.model, r.explainer, r.metric) for r in table.rows] == [
        (model, explainer, metric)
        for model in ("first", "second")
        for explainer, metric in [("bcos", "sparseness"), ("gradient", "sparseness"), ("", "completeness")]
    ]
    expected = sparseness(nets["second"], get_explainer("gradient"), IMAGES, encode=AddInverse())
    torch.testing.assert_close(table["second", "gradient", "sparseness"].scores, expected.scores)
    low, high = expected.bootstrap_interval()
    row = table.to_dict()["rows"][4]
    assert row["mean"] == pytest.approx(expected.mean)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert json.loads(json.dumps(table.to_dict()))["rows"][4]["count"] == 12


def test_grids_are_of_what_each_network_classifies_correctly(nets):
    net, encode = nets["first"], AddInverse()
    many = torch.rand(200, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    many *= torch.rand(200, 3, 1, 1, generator=torch.Generator().manual_seed(3))  # of many colours
    with torch.no_grad():
        predicted = net(encode(many)).argmax(1)
    images = torch.cat([many[predicted == k][:3] for k in predicted.unique()])
    with torch.no_grad():
        confidences, labels = net(encode(images)).double().sigmoid().max(1)
    assert len(labels.unique()) >= 4
    wrong = labels.clone()
    wrong[0] = (wrong[0] + 1) % 5
    table = compare(net, ["bcos"], {"gridpg": {"num_grids": 3}}, images, wrong, encode=encode)
    order = sorted(range(1, len(images)), key=lambda i: (int(labels[i]), -float(confidences[i])))
    given = images[order], labels[order], confidences[order]
    expected = grid_pointing_game(net, get_explainer("bcos"), *given, num_grids=3, encode=encode)
    torch.testing.assert_close(table["Sequential", "bcos", "gridpg"].scores, expected.scores)


def test_what_does_not_apply_is_a_row_that_says_why(nets):
    table = compare(nets["first"], ["attention_rollout", "bcos"], ["sparseness"], IMAGES, encode=AddInverse())
    failed, measured = table.rows
    assert failed.result is None
    assert "attention" in failed.problem
    assert measured.result.count == 12
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "| model | explainer | sparseness ↑ |"
    assert markdown[2] == "| Sequential | attention_rollout | – |"
    assert markdown[3].startswith(f"| Sequential | bcos | {measured.result.mean:.3g} (")
    assert markdown[-1].startswith("- Sequential: attention_rollout: sparseness: ")
    assert str(table) == table._repr_markdown_() == table.to_markdown()
    with pytest.raises(BcosError, match="attention"):
        _ = table["Sequential", "attention_rollout", "sparseness"]
    with pytest.raises(BcosError, match=r"has no row \('a', 'b', 'c'\); its rows are"):
        _ = table["a", "b", "c"]


def test_remarks_of_explainers_stand_in_the_table(nets):
    table = compare(nets["first"], ["guided_backprop"], ["sparseness"], IMAGES, encode=AddInverse())
    assert table.to_dict()["rows"][0]["remarks"]


def test_explainers_and_metrics_of_ones_own_and_one_encoding_a_network(nets):
    def share_of_first(model, explainer, images, *, encode):
        assert images.shape == IMAGES.shape
        return MetricResult(scores=explainer(model, encode(images), None)[:, 0, 0, 0])

    def number(model, explainer, images):
        return 0.5

    told = []
    table = compare(
        nets,
        {"ones": lambda model, x, target: torch.ones_like(x)},
        {"mine|": share_of_first, "number": number},
        IMAGES,
        encode={"first": AddInverse(), "second": lambda u: torch.cat([u, 1 - u], 1)},
        progress=lambda done, total: told.append((done, total)),
    )
    assert table["second", "ones", "mine|"].mean == 1
    assert [r.problem for r in table.rows if r.metric == "number"] == [
        "the metric 'number' returned float, not a MetricResult"
    ] * 2
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "ones: mine" not in table.to_markdown()


def test_pandas_has_a_line_for_each_row(nets, monkeypatch):
    table = compare(nets["first"], ["bcos"], ["sparseness"], IMAGES, encode=AddInverse())
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", absent)
        with pytest.raises(BcosError, match="to_pandas needs pandas, which is not installed: pip install pandas"):
            table.to_pandas()
        patch.setitem(__import__("sys").modules, "pandas", SimpleNamespace(DataFrame=list))
        patch.setattr(builtins, "__import__", original)
        assert table.to_pandas() == table.to_dict()["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, ["bcos"], ["sparseness"]), "compare needs networks, lists of explainers and of metrics, got 0"),
        ((None, "bcos", ["sparseness"]), "lists of explainers"),
        ((None, ["bcos"], []), "lists of explainers"),
        ((None, ["bcos"], ["gridpg"]), "the metric 'gridpg' needs labels; give them to compare"),
        ((None, ["bcos"], ["epg"]), "the metric 'epg' needs boxes"),
        ((None, ["bco"], ["epg"]), r"there is no explainer 'bco'; did you mean 'bcos'\?"),
        ((None, ["bcos"], ["sparsenes"]), "there is no metric 'sparsenes'"),
    ],
    ids=range(7),
)
def test_mistakes_are_answered_in_words(arguments, message, nets):
    models, explainers, metrics = arguments
    with pytest.raises(BcosError, match=message):
        compare(nets if models is None else models, explainers, metrics, IMAGES)
    with pytest.raises(BcosError, match="encode has nothing for second"):
        compare(nets, ["bcos"], ["sparseness"], IMAGES, encode={"first": AddInverse()})
