"""explain_batch: one call for targets, maps, W, receipts and remarks of any methods."""

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from linear_network import Linear, contributions

from bcos_core import BcosError, explain
from bcos_explain import ClassTarget, ExplainerSpec, explain_batch, get_explainer, hookimpl, plugins
from bcos_explain.explainers import attribute, remark
from bcos_explain.render import WeightPicture


@pytest.fixture
def x():
    return torch.rand(3, 6, 8, 8)


@pytest.fixture
def passes(colour_net, monkeypatch):
    """Sizes of the batches that went through the network."""
    sizes, forward = [], colour_net.forward

    def counted(images):
        sizes.append(len(images))
        return forward(images)

    monkeypatch.setattr(colour_net, "forward", counted)
    return sizes


def mixed(logits):
    """Two targets of the first image, one of the second, three of the third."""
    return [[ClassTarget(0), ClassTarget(2, against=1)], [ClassTarget(1)], [ClassTarget(k) for k in (2, 1, 0)]]


@pytest.fixture
def plugin(monkeypatch):
    """Register explainers as another package does."""

    def register(**explainers):
        module = ModuleType("their_plugin")
        specs = [ExplainerSpec(name, f"{__name__}:{name}", exact=exact) for name, exact in explainers.items()]
        module.bcos_explain_explainers = hookimpl(lambda: specs, specname="bcos_explain_explainers")
        entry = SimpleNamespace(
            name="theirs", value="theirs.plugin", load=lambda: module, dist=SimpleNamespace(name="theirs")
        )
        original = plugins.load_plugins.__globals__["entry_points"]
        monkeypatch.setattr("bcos_core.plugins.entry_points", lambda group: [*original(group=group), entry])
        monkeypatch.setattr(
            "bcos_core.plugins.resolve",
            lambda builder: {"twice": lambda: twice, "theirs": Theirs}.get(builder.split(":")[1]) or resolve(builder),
        )
        plugins._loaded.cache_clear()

    from bcos_core.plugins import resolve

    yield register
    plugins._loaded.cache_clear()


def twice(model, x, target):
    return 2 * contributions(model, x, target)


class Theirs:
    """An exact explainer of another package, with W."""

    def __call__(self, model, x, target=None):
        return explain(model, x, target).contributions

    def explanation(self, model, x, target=None, *, probe=None):
        return explain(model, x, target, probe=probe)


def test_maps_weights_and_receipts_are_those_of_explain(colour_net, x):
    e = explain(colour_net, x)
    for i, image in enumerate(explain_batch(colour_net, x, probe=True, colours=True)):
        (found,) = image.explanations
        assert (found.method, found.exact, found.target) == ("bcos", True, ClassTarget(int(e.target[i])))
        assert image.predicted == found.target.index
        torch.testing.assert_close(image.logits, e.logits[i])
        assert image.confidence == found.probability == pytest.approx(float(e.score[i].sigmoid()))
        np.testing.assert_allclose(found.map, e.map[i], atol=1e-6)
        np.testing.assert_allclose(found.weight, e.weight[i], atol=1e-6)
        assert found.contributions == pytest.approx(float(e.map[i].sum()), abs=1e-5)
        assert found.receipt.passed
        assert found.receipt.probe < 1e-5
        assert found.receipt.score == pytest.approx(found.logit, abs=1e-6)
        assert sum(found.bias_terms.values()) == pytest.approx(found.receipt.bias, abs=1e-6)
        expected = WeightPicture.of(x[i], e.weight[i])
        np.testing.assert_allclose(found.picture.rgba(1.0), expected.rgba(1.0), atol=0.01)
        np.testing.assert_allclose(image.image, (x[i, :3] * 255).permute(1, 2, 0), atol=0.51)


def test_targets_may_differ_from_image_to_image(colour_net, x):
    found = explain_batch(colour_net, x, mixed, ("bcos", "input_x_gradient"))
    assert [[e.target for e in image.explanations] for image in found] == [2 * row for row in mixed(None)]
    for i, image in enumerate(found):
        for explanation in image.explanations:
            target, other = explanation.target.index, explanation.target.against
            logit = image.logits[target] - (0 if other is None else image.logits[other])
            assert explanation.logit == pytest.approx(float(logit), abs=1e-5)
            explainer = get_explainer(explanation.method)
            expected = attribute(explainer, colour_net, x[i : i + 1], target)
            if other is not None:
                expected = expected - attribute(explainer, colour_net, x[i : i + 1], other)
            np.testing.assert_allclose(explanation.map, expected[0], atol=1e-5)
            assert (explanation.weight is not None) == (explanation.receipt is not None) == explanation.exact


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, None),
        (1, [[1]] * 3),
        (torch.tensor([0, 2, 1]), [[0], [2], [1]]),
        (torch.tensor([[0, 1], [2, 1], [1, 0]]), [[0, 1], [2, 1], [1, 0]]),
        ([ClassTarget(2), ClassTarget(0)], [[2, 0]] * 3),
        ([0, 2, 1], [[0], [2], [1]]),
        ("b", [[1]] * 3),
        (["a", 2, "b"], [[0], [2], [1]]),
        ([["a", "b"], ["c", "b"], ["b", "a"]], [[0, 1], [2, 1], [1, 0]]),
    ],
)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_targets_are_given_in_any_way(targets, expected, batch_size, colour_net, x):
    colour_net.class_names = ["a", "b", "c"]
    found = explain_batch(colour_net, x, targets, batch_size=batch_size)
    predicted = [[image.predicted] for image in found]
    assert [[e.target.index for e in image.explanations] for image in found] == (expected or predicted)


def test_one_forward_pass_serves_logits_targets_and_contrasts(colour_net, x, passes):
    explain_batch(colour_net, x, mixed)
    passes.clear()  # the first time outputs are compared
    explain_batch(colour_net, x, mixed)
    assert passes == [3]


def test_exactness_is_what_the_description_says(x, plugin):
    plugin(twice=False, theirs=True)
    model = Linear().eval()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for image in explain_batch(model, images, [ClassTarget(1), ClassTarget(0, against=1)], ("theirs", "twice", "bcos")):
        by_method = {m: [e for e in image.explanations if e.method == m] for m in ("theirs", "twice", "bcos")}
        assert [e.exact for e in image.explanations] == [True, True, False, False, True, True]
        for ours, theirs, doubled in zip(by_method["bcos"], by_method["theirs"], by_method["twice"], strict=True):
            np.testing.assert_array_equal(theirs.map, ours.map)
            np.testing.assert_allclose(doubled.map, 2 * ours.map, rtol=1e-5, atol=1e-6)
            assert theirs.receipt == ours.receipt
            assert doubled.receipt is doubled.weight is None


def test_exact_explainer_without_w_is_exact_too(plugin):
    plugin(twice=True)
    ((explanation,),) = (
        i.explanations for i in explain_batch(Linear().eval(), torch.rand(1, 3, 8, 8).double(), 0, ("twice",))
    )
    assert explanation.exact
    assert explanation.receipt is explanation.picture is None


def test_half_the_images_at_a_time_where_memory_runs_out(colour_net, x, monkeypatch, passes):
    expected = explain_batch(colour_net, x, mixed(None)[2])
    forward, passes[:] = colour_net.forward, []

    def small(images):
        logits = forward(images)
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits

    monkeypatch.setattr(colour_net, "forward", small)
    found = explain_batch(colour_net, x, mixed(None)[2])
    assert passes == [3, 1, 1, 1]
    for a, b in zip(found, expected, strict=True):
        for one, other in zip(a.explanations, b.explanations, strict=True):
            assert one.target == other.target
            np.testing.assert_allclose(one.map, other.map, atol=1e-6)


def test_remarks_stand_with_the_map_they_are_about(colour_net, x):
    def talking(model, images, target):
        remark("this one", torch.tensor([False, True, False]))
        return images

    for i, image in enumerate(explain_batch(colour_net, x, methods={"talking": talking})):
        assert [str(r) for r in image.explanations[0].remarks] == ["this one"] * (i == 1)


def test_method_that_refuses_is_left_out_where_that_is_allowed(colour_net, x):
    told = []
    methods = ("attention_rollout", "bcos")
    found = explain_batch(
        colour_net, x, methods=methods, on_refusal=lambda name, reason: told.append((name, str(reason)))
    )
    assert [[e.method for e in image.explanations] for image in found] == [["bcos"]] * 3
    ((name, reason),) = told
    assert name == "attention_rollout"
    assert "transformer" in str(reason)
    with pytest.raises(BcosError, match="transformer"):
        explain_batch(colour_net, x, methods=methods)


def test_no_methods_give_logits_and_probabilities(colour_net, x):
    for image, logits in zip(explain_batch(colour_net, x, methods=()), colour_net(x), strict=True):
        torch.testing.assert_close(image.logits, logits.detach())
        torch.testing.assert_close(image.probabilities, logits.detach().sigmoid())
        assert image.explanations == ()


def test_images_are_encoded_and_shown_as_they_are_given(colour_net):
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    found = explain_batch(
        colour_net,
        images,
        encode=lambda u: torch.cat([u / 255, 1 - u / 255], 1),
        probabilities=lambda z: z.softmax(1),
        keep_weight=False,
    )
    for image, given in zip(found, images, strict=True):
        np.testing.assert_array_equal(image.image, given.permute(1, 2, 0))
        assert float(image.probabilities.sum()) == pytest.approx(1)
        assert image.explanations[0].weight is None


@pytest.mark.parametrize("methods", [(), ("gradient",), ("bcos",)])
def test_network_in_train_mode_is_refused_unchanged(methods, colour_net, x):
    colour_net.train()
    before = {name: value.clone() for name, value in colour_net.state_dict().items()}
    with pytest.raises(BcosError, match=r"call model\.eval"):
        explain_batch(colour_net, x, 0, methods)
    assert all(torch.equal(value, before[name]) for name, value in colour_net.state_dict().items())


def test_what_is_said_of_a_method_is_said_of_the_explainer_that_is_given(colour_net, x):
    given = {"bcos": get_explainer("gradient"), "gradcam": get_explainer("bcos"), "gradient": lambda m, x, t=None: x}
    for image in explain_batch(colour_net, x, 0, given):
        assert [(e.method, e.exact, e.signed) for e in image.explanations] == [
            ("bcos", False, True),
            ("gradcam", True, True),
            ("gradient", False, True),
        ]


@pytest.mark.parametrize(
    ("targets", "methods", "message"),
    [
        (99, ("bcos",), r"target must be in \[0, (\d+)\) for \1 outputs, got values from 99 to 99"),
        (
            [ClassTarget(0, against=99)],
            ("bcos",),
            r"target must be in \[0, (\d+)\) for \1 outputs, got values from 99 to 99",
        ),
        ([ClassTarget(0, against=-1)], ("bcos",), r"target must be in \[0, (\d+)\) for \1 outputs, got values from -1"),
        ([0, 1, 2, 0], ("bcos",), r"classes for 3 inputs, got shape \(4,\)"),
        (torch.zeros(4, 2, dtype=torch.int64), ("gradient",), r"classes for 3 inputs, got shape \(4, 2\)"),
        ([], ("bcos",), "there are no targets"),
        (lambda logits: [[ClassTarget(0)], [], [ClassTarget(1)]], ("bcos",), "no targets for some images"),
        ("d", ("bcos",), "the model has no class_names among which to find 'd'"),
        ([ClassTarget(0), 1, 2], ("bcos",), r"target must be None, a class, \(N,\) or \(N, T\) classes"),
        (None, ("bcoss",), "there is no explainer 'bcoss'; did you mean 'bcos'"),
    ],
)
def test_impossible_requests_are_refused(targets, methods, message, colour_net, x):
    with pytest.raises(BcosError, match=message):
        explain_batch(colour_net, x, targets, methods)


def test_targets_with_contrasts_hold_numbers():
    with pytest.raises(BcosError, match=r"a ClassTarget holds numbers of classes, got 'cat'; give model.class_n"):
        ClassTarget("cat")
    with pytest.raises(BcosError, match="got 'dog'"):
        ClassTarget(3, against="dog")


def test_outputs_that_are_no_logits_and_another_number_of_inputs_are_refused(colour_net, x):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = colour_net

        def forward(self, images):
            return {"logits": self.net(images)}

    with pytest.raises(BcosError, match=r"needs logits .*, the model gives dict; wrap it"):
        explain_batch(Wrapped().eval(), x, [ClassTarget(0)])
    with pytest.raises(BcosError, match="encode made 1 inputs of 3 images"):
        explain_batch(colour_net, x, [ClassTarget(0)], encode=lambda images: images[:1])
