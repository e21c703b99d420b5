"""Metrics of explanations over many images: in parts, on all processes, and going on after a kill."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bcos_cli import console
from bcos_cli.evaluate.annotated import AnnotatedImages
from bcos_cli.evaluate.resumable import Part, PartialResults
from bcos_cli.evaluate.samplers import SampledImages
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_core.plugins import check_options, takes
from bcos_explain import MetricSpec, get_explainer, get_metric
from bcos_explain.explainers.memory import is_out_of_memory
from bcos_explain.explainers.remarks import Remark, collect_remarks, worst
from bcos_explain.metrics import ConfidentImages, MetricResult, sample_grids
from bcos_models import TrainedModel


@dataclass(frozen=True)
class GridOptions:
    """Grids of the pointing games."""

    n: int
    count: int
    smooth: int
    seed: int


@dataclass(frozen=True)
class Material:
    """What metrics work on, the same in every process."""

    trained: TrainedModel
    grids: GridOptions
    batch_size: int
    """Images, or grids, in a part, which are explained at once."""
    options: dict[str, dict[str, Any]]
    """Of metrics and explainers, by name."""
    sampled: SampledImages | None = None
    confident: ConfidentImages | None = None
    annotated: AnnotatedImages | None = None
    """Instead of images of shards."""

    @functools.cached_property
    def confident_images(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and confidences."""
        if self.confident is None:
            raise BcosError("it needs confident images, which were not collected")
        return self.confident.collected()

    @functools.cached_property
    def sampled_grids(self) -> Tensor:
        """(G, n²): which images each grid shows."""
        _, labels, confidences = self.confident_images
        generator = torch.Generator().manual_seed(self.grids.seed)
        return sample_grids(labels, confidences, self.grids.n, self.grids.count, generator)


Work = Callable[[slice], Any]
"""Measures samples start to stop."""


def measure(material: Material, spec: MetricSpec, explainer: str | None, partial: PartialResults) -> MetricResult:
    """Measure one metric of one explainer.

    Parts are dealt out to the processes in turn; every process returns the whole result.

    Raises:
        BcosError: in every process, if it cannot be measured in one of them.
    """
    from accelerate.utils import gather_object

    state = process_state()
    task = spec.name if explainer is None else f"{spec.name}.{explainer}"
    try:
        count, size, work = _work(material, spec, explainer)
        parts = partial.load(task)
        todo = [k for k in range(state.process_index, -(-count // size), state.num_processes) if k not in parts]
        with console.counted(_described(spec, explainer), len(todo), state.is_main_process) as counter:
            for number in todo:
                part = slice(number * size, min((number + 1) * size, count))
                with collect_remarks() as remarks:
                    result = work(part)
                parts[number] = _as_part(result, spec, part.stop - part.start, remarks)
                partial.add(task, number, parts[number])
                counter.advance(images=part.stop - part.start)
        outcome: tuple[str | None, dict[int, Part]] = (None, parts)
    except BcosError as mistake:
        outcome = (str(mistake), {})  # the others wait for this process, whatever happened
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        outcome = (f"out of memory with {material.batch_size} at a time; use a smaller --explain-batch", {})
    joined: dict[int, Part] = {}
    for reason, parts in gather_object([outcome]):
        if reason is not None:
            raise BcosError(reason)
        joined |= parts
    return MetricResult.concatenate([_as_result(joined[number]) for number in sorted(joined)])


def samples(material: Material, spec: MetricSpec) -> list[int] | list[str]:
    """What the scores of a metric belong to, where that is single images: positions in the split, or file names."""
    if material.annotated is not None:
        return material.annotated.keys
    if spec.unit == "image" and "confidences" not in spec.needs and material.sampled is not None:
        return sorted(material.sampled.state())
    return []


def _described(spec: MetricSpec, explainer: str | None) -> str:
    return spec.name if explainer is None else f"{spec.name} {explainer}"


def _work(material: Material, spec: MetricSpec, explainer: str | None) -> tuple[int, int, Work]:
    """Number of samples, of samples in a part, and the work on a part."""
    function = get_metric(spec.name)
    options = dict(material.options.get(spec.name, {}))
    check_options(f"the metric {spec.name!r}", function, options)
    options |= {"encode": material.trained.encode}
    if takes(function, "smooth"):
        options.setdefault("smooth", material.grids.smooth)
    if takes(function, "batch_size"):
        options.setdefault("batch_size", material.batch_size)
    given: dict[str, Any] = {"model": material.trained.model}
    if explainer is not None:
        given["explainer"] = get_explainer(explainer, **material.options.get(explainer, {}))
    if spec.unit == "grid":
        return _over_grids(material, spec, function, given, options)
    given |= _images(material, spec)
    target = given["labels"] if material.annotated is not None and takes(function, "target") else None
    if missing := [need for need in spec.needs if need not in given]:
        raise BcosError(f"it needs {', '.join(missing)}, which these annotations do not have")
    count = len(given["images"])
    size = count if spec.unit == "whole" else material.batch_size

    def work(part: slice) -> Any:
        chosen = {k: v if k in ("model", "explainer") else v[part] for k, v in given.items()}
        explained = {} if target is None else {"target": target[part]}
        return function(*(chosen[need] for need in spec.needs), **explained, **options)

    return count, size, work


def _over_grids(
    material: Material, spec: MetricSpec, function: Callable[..., Any], given: dict[str, Any], options: dict[str, Any]
) -> tuple[int, int, Work]:
    given["images"], given["labels"], given["confidences"] = material.confident_images
    grids = material.sampled_grids
    options = {"n": material.grids.n, **options}

    def work(part: slice) -> Any:
        return function(*(given[need] for need in spec.needs), grids=grids[part], **options)

    return len(grids), material.batch_size, work


def _images(material: Material, spec: MetricSpec) -> dict[str, Any]:
    if material.annotated is not None:
        return material.annotated.given()
    if "confidences" in spec.needs:
        images, labels, confidences = material.confident_images
        return {"images": images, "labels": labels, "confidences": confidences}
    assert material.sampled is not None
    images, labels, keys = material.sampled.collected()
    return {"images": images, "labels": labels, "keys": keys}


def _as_part(result: Any, spec: MetricSpec, samples: int, remarks: list[Remark]) -> Part:
    """Plain lists; of a metric that cannot be divided, a result that has a mean only counts as one score."""
    if spec.unit == "whole" and not isinstance(result, MetricResult) and hasattr(result, "mean"):
        result = MetricResult(scores=torch.tensor([float(result.mean)]), higher_is_better=spec.higher_is_better)
    _check_promise(result, spec, samples)
    part: Part = {
        "scores": result.scores.tolist(),
        "cluster": result.cluster,
        "higher_is_better": result.higher_is_better,
        "chance": result.chance,
    }
    if remarks:
        part["remarks"] = [[r.text, r.share] for r in worst(remarks)]
    if result.curves is not None and result.curve_x is not None:
        part |= {"curves": result.curves.tolist(), "curve_x": result.curve_x.tolist()}
    return part


def _check_promise(result: Any, spec: MetricSpec, samples: int) -> None:
    """Hold a metric to its description: what it returns, how many scores, and which of them are good.

    Raises:
        BcosError: naming the metric and the function that computes it.
    """
    who = f"the metric {spec.name!r} ({spec.builder})"
    if not isinstance(result, MetricResult):
        raise BcosError(f"{who} returned {type(result).__name__}; with unit={spec.unit!r} it has to be a MetricResult")
    given = len(result.scores) // result.cluster
    if spec.unit == "image" and result.cluster != 1:
        raise BcosError(f"{who} has unit='image', but scores that belong together, {result.cluster} each")
    if spec.unit != "whole" and given != samples:
        raise BcosError(f"{who} returned scores of {given} {spec.unit}s for {samples}; use NaN where one is undefined")
    if (
        None not in (result.higher_is_better, spec.higher_is_better)
        and result.higher_is_better != spec.higher_is_better
    ):
        raise BcosError(f"{who} says that higher_is_better={spec.higher_is_better}, its result says the opposite")


def _as_result(part: Part) -> MetricResult:
    tensors: dict[str, Any] = {
        k: torch.tensor(part[k], dtype=torch.float64) for k in ("scores", "curves", "curve_x") if k in part
    }
    remarks = tuple(Remark(text, share) for text, share in part.get("remarks", ()))
    return MetricResult(**part | tensors | {"remarks": remarks})
