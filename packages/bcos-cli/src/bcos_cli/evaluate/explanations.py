"""Metrics of explanations over many images: computed in parts, on all processes, resumed after a kill."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bcos_cli import console
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.result import Explanations, score_name
from bcos_cli.evaluate.resumable import Part, PartialResults
from bcos_cli.explain.inference import blank_input, for_inference
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_core.plugin_guard import PluginError
from bcos_core.plugins import takes
from bcos_explain import MetricSpec, explainer_specs, get_explainer, get_metric
from bcos_explain.explainers.memory import is_out_of_memory
from bcos_explain.explainers.remarks import Remark, collect_remarks, worst
from bcos_explain.metrics import MetricResult, sample_grids
from bcos_explain.plugins import metrics
from bcos_models import TrainedModel


@dataclass(frozen=True)
class _Task:
    """One metric of one explainer, divided into parts."""

    count: int
    """Images or grids."""
    part_size: int
    compute: Callable[[slice], Any]


@dataclass(frozen=True)
class ExplanationMetrics:
    """Metrics of the explanations of a network."""

    trained: TrainedModel
    inputs: Callable[[MetricSpec], dict[str, Any]]
    """Returns what a metric may need, by name."""
    options: EvaluationOptions
    partial: PartialResults
    """Parts that an earlier evaluation has computed."""

    @cached_property
    def _folded(self) -> nn.Module:
        """The network with the same maps, read off faster: for metrics that explain thousands of cells."""
        device = next((p.device for p in self.trained.model.parameters()), torch.device("cpu"))
        return for_inference(self.trained.model.eval(), blank_input(self.trained, device))

    def measure_all(self, specs: Sequence[MetricSpec]) -> tuple[Explanations, dict[str, str]]:
        """Return results by metric and explainer, and the reason for each score that could not be measured."""
        explanations: Explanations = {}
        skipped: dict[str, str] = {}
        for spec in specs:
            for explainer in self.options.explainers if "explainer" in spec.needs else ("",):
                try:
                    explanations.setdefault(spec.name, {})[explainer] = self._measure(spec, explainer)
                except BcosError as reason:
                    skipped[score_name(spec.name, explainer)] = str(reason)
        if process_state().is_main_process:
            self.partial.clear()
        return {metric: results for metric, results in explanations.items() if results}, skipped

    def try_out(self, spec: MetricSpec, explainer: str) -> None:
        """Compute the first part of a metric, and hold it to its description; errors are those of the metric."""
        task = self._task(spec, explainer)
        count = min(task.part_size, task.count)
        _as_part(task.compute(slice(0, count)), spec, count, [])

    def _measure(self, spec: MetricSpec, explainer: str) -> MetricResult:
        """Measure one metric of one explainer (``""`` where it takes none).

        Parts are dealt out to the processes in turn; every process returns the whole result, or raises an error if
        one of them cannot measure it.
        """
        from accelerate.utils import gather_object

        outcome: tuple[str | None, dict[int, Part]]
        try:
            outcome = None, self._own_parts(spec, explainer)
        except BcosError as mistake:
            outcome = str(mistake), {}  # raised below in all processes: the others wait for this one
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size = self.options.explain_batch
            outcome = f"out of memory with {size} at a time; use a smaller --explain-batch", {}
        joined: dict[int, Part] = {}
        for reason, parts in gather_object([outcome]):
            if reason is not None:
                raise BcosError(reason)
            joined |= parts
        return MetricResult.concatenate([_as_result(joined[number]) for number in sorted(joined)])

    def _own_parts(self, spec: MetricSpec, explainer: str) -> dict[int, Part]:
        """Compute the parts of this process that no process has computed yet; return all that are known."""
        state, name = process_state(), f"{spec.name}.{explainer}".rstrip(".")
        task = self._task(spec, explainer)
        parts = self.partial.load(name)
        numbers = range(state.process_index, -(-task.count // task.part_size), state.num_processes)
        missing = [number for number in numbers if number not in parts]
        label = f"{spec.name} {explainer}".rstrip()
        with console.counted(label, len(missing), state.is_main_process) as counter:
            for number in missing:
                part = slice(number * task.part_size, min((number + 1) * task.part_size, task.count))
                with collect_remarks() as remarks:
                    result = task.compute(part)
                parts[number] = _as_part(result, spec, part.stop - part.start, remarks)
                self.partial.add(name, number, parts[number])
                counter.advance(images=part.stop - part.start)
        return parts

    def _task(self, spec: MetricSpec, explainer: str) -> _Task:
        function = get_metric(spec.name)
        inputs = self.inputs(spec)
        if missing := [need for need in spec.needs if need not in ("model", "explainer", *inputs)]:
            raise BcosError(f"it needs {', '.join(missing)}, which these annotations do not have")
        exact = any(explained.exact for explained in explainer_specs() if explained.name == explainer)
        whole: dict[str, Any] = {"model": self._folded if exact and spec.unit == "grid" else self.trained.model}
        if explainer:
            whole["explainer"] = get_explainer(explainer, **self.options.options.get(explainer, {}))
        divided = {need: inputs[need] for need in spec.needs if need in inputs}
        named: dict[str, Any] = {}
        if spec.unit == "grid":  # every grid may show any of the images
            whole, divided = whole | divided, {}
            generator = torch.Generator().manual_seed(self.options.seed)
            size, count = self.options.grid_size, self.options.grids
            named["grids"] = sample_grids(inputs["labels"], inputs["confidences"], size, count, generator)  # (G, n²)
        elif "target" in inputs and takes(function, "target"):
            named["target"] = inputs["target"]
        given = {"smooth": self.options.smooth, "batch_size": self.options.explain_batch}
        options: dict[str, Any] = {name: value for name, value in given.items() if takes(function, name)}
        options |= {"n": self.options.grid_size} if spec.unit == "grid" else {}
        options |= {**self.options.options.get(spec.name, {}), "encode": self.trained.encode}

        def compute(part: slice) -> Any:
            arguments = whole | {need: values[part] for need, values in divided.items()}
            chosen = {name: values[part] for name, values in named.items()}
            with metrics().running(spec.name):
                return function(*(arguments[need] for need in spec.needs), **chosen, **options)

        count = len(named["grids"] if spec.unit == "grid" else inputs["images"])
        return _Task(count, count if spec.unit == "whole" else self.options.explain_batch, compute)


_FIELDS = ("scores", "cluster", "higher_is_better", "chance", "statistic", "curves", "curve_x")


def _as_part(result: Any, spec: MetricSpec, samples: int, remarks: list[Remark]) -> Part:
    """Return a result as plain lists; for a metric that cannot be divided, a mean alone counts as one score."""
    if spec.unit == "whole" and not isinstance(result, MetricResult) and hasattr(result, "mean"):
        result = MetricResult(scores=torch.tensor([float(result.mean)]), higher_is_better=spec.higher_is_better)
    _check_against_spec(result, spec, samples)
    values = {name: value for name in _FIELDS if (value := getattr(result, name)) is not None}
    part = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()}
    return part | ({"remarks": [[r.text, r.share] for r in worst(remarks)]} if remarks else {})


def _check_against_spec(result: Any, spec: MetricSpec, samples: int) -> None:
    """Hold a metric to its description: what it returns, how many scores, and which direction is better."""
    who = metrics().described(spec.name)
    if not isinstance(result, MetricResult):
        raise PluginError(f"{who} gave {type(result).__name__}; with unit={spec.unit!r} it has to be a MetricResult")
    given = len(result.scores) // result.cluster
    if spec.unit == "image" and result.cluster != 1:
        raise PluginError(f"{who} has unit='image', but scores that belong together, {result.cluster} each")
    if spec.unit != "whole" and given != samples:
        raise PluginError(f"{who} gave scores of {given} {spec.unit}s for {samples}; use NaN where one is undefined")
    if {result.higher_is_better, spec.higher_is_better} == {True, False}:
        raise PluginError(f"{who} says that higher_is_better={spec.higher_is_better}, its result says the opposite")


def _as_result(part: Part) -> MetricResult:
    tensors: dict[str, Any] = {
        k: torch.tensor(part[k], dtype=torch.float64) for k in ("scores", "curves", "curve_x") if k in part
    }
    remarks = tuple(Remark(text, share) for text, share in part.get("remarks", ()))
    return MetricResult(**part | tensors | {"remarks": remarks})
