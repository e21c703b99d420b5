"""Explainers of this package measured by Quantus, and its metrics beside ours."""

import numpy as np
import pytest
import torch
from explained_networks import calibrated

from bcos_explain import get_explainer
from bcos_explain.metrics import complexity, energy_inside, sparseness
from bcos_explain.quantus import explain_func


@pytest.fixture(scope="module")
def quantus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "agg")
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that Quantus imports
            return pytest.importorskip("quantus")


@pytest.fixture
def given():
    """Network, inputs and predicted classes as Quantus takes them."""
    net, _ = calibrated("plain")
    x = torch.rand(4, 3, 12, 12)
    with torch.no_grad():
        y = net(x).argmax(1)
    return {"model": net, "x_batch": x.numpy(), "y_batch": y.numpy()}


def measured(metric, given, name="bcos", **options):
    explain = explain_func(get_explainer(name))
    return np.asarray(metric(**given, explain_func=explain, device="cpu", **options), dtype=float)


OPTIONS = {"disable_warnings": True, "display_progressbar": False}


def test_explanations_have_the_shapes_that_quantus_knows(given):
    net, x, y = given.values()
    maps = explain_func(get_explainer("bcos"))(net, x, y)
    every = explain_func(get_explainer("bcos"), channels=True)(net, x, y)
    assert maps.shape == (4, 1, 12, 12)
    assert every.shape == (4, 3, 12, 12)
    np.testing.assert_allclose(every.sum(1, keepdims=True), maps, atol=1e-6)
    expected = get_explainer("bcos")(net, torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_array_equal(every, expected.numpy())
    assert explain_func(get_explainer("gradcam"), channels=True)(net, x, y).shape == (4, 1, 12, 12)


def test_one_class_for_all_and_the_networks_precision(given):
    net, x, _ = given.values()
    maps = explain_func(get_explainer("bcos"))(net.double(), x, 3, device="cpu")
    expected = get_explainer("bcos")(net, torch.from_numpy(x).double(), 3).sum(1)
    np.testing.assert_allclose(maps[:, 0], expected.numpy())


def test_arguments_that_are_not_known_are_refused(given):
    net, x, y = given.values()
    with pytest.raises(TypeError, match="softmax"):
        explain_func(get_explainer("bcos"))(net, x, y, softmax=True)


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
@pytest.mark.parametrize("name", ["bcos", "integrated_gradients", "layercam"])
def test_sparseness_is_our_gini_index(quantus, given, name):  # to which Quantus adds 1e-7 a pixel
    theirs = measured(quantus.Sparseness(**OPTIONS), given, name)
    ours = sparseness(given["model"], get_explainer(name), torch.from_numpy(given["x_batch"]))
    np.testing.assert_allclose(theirs, ours.scores.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["bcos", "layercam"])
def test_complexity_is_our_entropy(quantus, given, name):
    theirs = measured(quantus.Complexity(normalise=False, **OPTIONS), given, name)
    ours = complexity(given["model"], get_explainer(name), torch.from_numpy(given["x_batch"]))
    np.testing.assert_allclose(theirs, ours.scores.numpy(), atol=1e-4)


def test_mass_inside_a_mask_is_our_energy(quantus, given):
    masks = torch.zeros(4, 1, 12, 12, dtype=torch.bool)
    masks[:, :, 3:9, 2:8] = True
    metric = quantus.RelevanceMassAccuracy(normalise=False, abs=False, **OPTIONS)
    explain = explain_func(lambda model, x, target: get_explainer("bcos")(model, x, target).sum(1).clamp_min(0))
    theirs = metric(**given, s_batch=masks.numpy(), explain_func=explain, device="cpu")
    maps = explain(*given.values())
    np.testing.assert_allclose(theirs, energy_inside(torch.from_numpy(maps[:, 0]), masks[:, 0]).numpy(), atol=1e-5)


def test_relevance_rank_accuracy_runs(quantus, given):
    masks = np.zeros((4, 1, 12, 12), dtype=bool)
    masks[:, :, 3:9, 2:8] = True
    scores = measured(quantus.RelevanceRankAccuracy(**OPTIONS), given, s_batch=masks)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_pixel_flipping_removes_what_our_map_calls_important(quantus, given):
    metric = quantus.PixelFlipping(
        features_in_step=36,  # 12 pixels of 3 channels
        perturb_baseline="black",
        abs=False,
        normalise=False,
        return_auc_per_sample=False,
        **OPTIONS,
    )
    curves = measured(metric, given)
    assert curves.shape == (4, 12)
    net, x = given["model"], torch.from_numpy(given["x_batch"])
    target = torch.from_numpy(given["y_batch"])
    maps = get_explainer("bcos")(net, x, target).sum(1).flatten(1)
    gone = (maps.argsort(1, descending=True).argsort(1) < 12).view(4, 1, 12, 12)
    black = x.amin((1, 2, 3), keepdim=True)  # what Quantus calls black: the smallest value of the image
    with torch.no_grad():
        first = net(torch.where(gone, black, x)).softmax(1).gather(1, target[:, None])[:, 0]
    np.testing.assert_allclose(curves[:, 0], first.numpy(), atol=1e-4)


def test_faithfulness_correlation_prefers_contributions_to_their_negative(quantus, given):
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=60,
        subset_size=24,
        perturb_baseline="black",
        abs=False,
        normalise=False,
        **OPTIONS,
    )
    scores = []
    for sign in (1, -1):
        np.random.seed(0)
        explain = explain_func(lambda model, x, target, sign=sign: sign * get_explainer("bcos")(model, x, target))
        scores.append(np.asarray(metric(**given, explain_func=explain, device="cpu"), dtype=float))
    np.testing.assert_allclose(scores[0], -scores[1], atol=1e-3)
