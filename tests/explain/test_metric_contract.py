"""What every metric of this package promises."""

import functools

import pytest
import torch
from explained_networks import calibrated

import bcos_explain
from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer, get_metric
from bcos_explain.metrics import MetricResult, sample_grids

SPECS = [spec for spec in bcos_explain.metric_specs() if spec.builder.startswith("bcos_explain.")]
OF_IMAGES = [spec for spec in SPECS if spec.unit == "image"]
OF_GRIDS = [spec for spec in SPECS if spec.unit == "grid"]
FAST = {
    "sensitivity_n": {"subsets": 5, "fractions": (0.1, 0.5)},
    "infidelity": {"squares": 5},
    "max_sensitivity": {"samples": 2},
    "deletion": {"steps": 4},
    "insertion": {"steps": 4},
}


def named(specs):
    return pytest.mark.parametrize("spec", specs, ids=[spec.name for spec in specs])


@pytest.fixture
def material():
    net, _ = calibrated("bcos_rgb")
    labels = torch.arange(12) % 5
    return {
        "model": net.double(),
        "explainer": get_explainer("bcos"),
        "images": torch.randint(0, 256, (12, 3, 10, 10), dtype=torch.uint8),
        "labels": labels,
        "confidences": torch.rand(12),
        "boxes": list(torch.tensor([1.0, 2, 7, 8]).expand(12, 4)),
        "masks": torch.rand(12, 10, 10) < 0.5,
    }


def measure(spec, material, samples=None, **options):
    """Call a metric as the program does, with some of the images or grids."""
    given = dict(material)
    options = {"encode": AddInverse(), **FAST.get(spec.name, {}), **options}
    if spec.unit == "grid":
        grids = sample_grids(given["labels"], given["confidences"], 2, 4)
        options["grids"] = grids if samples is None else grids[samples]
    elif samples is not None:
        given = {k: v if k in ("model", "explainer") else v[samples] for k, v in given.items()}
    return get_metric(spec.name)(*(given[need] for need in spec.needs), **options)


@named(SPECS)
def test_results_say_what_their_description_says(spec, material):
    result = measure(spec, material)
    assert isinstance(result, MetricResult)
    assert result.higher_is_better is spec.higher_is_better is not None
    assert len(result.scores) == (12 if spec.unit == "image" else 4 * len(sample_grids(*game(material), 2, 4)))
    assert result.count == len(result.scores)
    low, high = result.bootstrap_interval()
    assert low <= result.mean <= high


def game(material):
    return material["labels"], material["confidences"]


@named(SPECS)
def test_every_metric_can_be_measured_in_parts(spec, material):
    whole = measure(spec, material)
    count = len(whole.scores) // whole.cluster
    parts = [measure(spec, material, slice(start, start + 5)) for start in range(0, count, 5)]
    if spec.unit == "grid":
        parts = [measure(spec, material, slice(i, i + 1)) for i in range(count)]
    joined = MetricResult.concatenate(parts)
    torch.testing.assert_close(joined.scores, whole.scores, atol=1e-6, rtol=1e-5)
    if whole.curves is not None:
        torch.testing.assert_close(joined.curves, whole.curves, atol=1e-6, rtol=1e-5)


@named(SPECS)
def test_batches_make_no_difference_and_progress_is_told(spec, material):
    told = []
    whole = measure(spec, material, batch_size=100)
    batched = measure(spec, material, batch_size=5, progress=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(batched.scores, whole.scores, atol=1e-6, rtol=1e-5)
    total = len(whole.scores) // whole.cluster
    assert told == [(min(start + 5, total), total) for start in range(0, total, 5)]


@named(SPECS)
def test_randomness_does_not_come_from_the_global_seed(spec, material):
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        scores.append(measure(spec, material).scores)
    assert torch.equal(*scores)


@named(SPECS)
def test_the_network_is_left_as_it_was(spec, material):
    net = material["model"]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure(spec, material)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module.training or module._forward_hooks for module in net.modules())


@named(SPECS)
def test_metrics_work_without_gradients(spec, material):
    expected = measure(spec, material)
    with torch.inference_mode():
        torch.testing.assert_close(measure(spec, material).scores, expected.scores)


@named([spec for spec in OF_IMAGES if "explainer" in spec.needs])
def test_the_explained_class_can_be_chosen(spec, material):
    predicted = material["model"](AddInverse()(material["images"].double() / 255)).argmax(1)
    by_default = measure(spec, material)
    torch.testing.assert_close(measure(spec, material, target=predicted).scores, by_default.scores)
    other = measure(spec, material, target=(predicted + 1) % 5)
    assert not torch.equal(other.scores.nan_to_num(), by_default.scores.nan_to_num())


@named(OF_IMAGES)
def test_mistakes_are_refused(spec, material):
    with pytest.raises(BcosError, match="batch_size must be at least 1, got 0"):
        measure(spec, material, batch_size=0)
    with pytest.raises(BcosError, match=r"target must be \(12,\), got \(12, 2\)"):
        measure(spec, material, target=torch.zeros(12, 2, dtype=torch.long))
    with pytest.raises(BcosError, match=r"metrics need images \(M, C, H, W\), at least one"):
        measure(spec, material, slice(0, 0))


@named([spec for spec in SPECS if "explainer" in spec.needs])
def test_explainers_of_maps_alone_are_measured_too(spec, material):
    explainer = get_explainer("gradcam")
    assert len(measure(spec, material | {"explainer": explainer}).scores) > 0


@named([spec for spec in SPECS if "explainer" in spec.needs])
def test_any_callable_can_be_measured(spec, material):
    class_maps = functools.partial(torch.full, fill_value=0.5, dtype=torch.float64)

    def blind(model, x, target):
        return class_maps((len(x), *x.shape[2:]))

    result = measure(spec, material | {"explainer": blind})
    if spec.unit == "grid":
        assert result.mean == pytest.approx(result.chance)
