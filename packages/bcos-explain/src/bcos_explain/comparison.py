"""Networks and explainers side by side: every metric of every pair, as a table."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.plugins import takes
from bcos_explain.explainers import Explainer, collect_remarks
from bcos_explain.explainers.remarks import remark_lines, worst
from bcos_explain.metrics.batches import Encode, each_batch
from bcos_explain.metrics.confident_images import ConfidentImages
from bcos_explain.metrics.result import MetricResult
from bcos_explain.registry import get_explainer, get_metric, metric_specs

Metrics = Sequence[str] | Mapping[str, Mapping[str, Any] | Callable[..., MetricResult]]
_MAPS = ("model", "explainer", "images")
_CONFIDENT = ("labels", "confidences")
_ARROWS = {True: " ↑", False: " ↓", None: ""}


@dataclass(frozen=True)
class ComparisonRow:
    """One metric of one explainer on one network."""

    model: str
    explainer: str
    """Empty for a metric that takes none."""
    metric: str
    result: MetricResult | None
    problem: str = ""
    """Why there is no result."""

    def to_dict(self) -> dict[str, Any]:
        """Return names, mean, median and which is the value, its 95 % interval, counts, chance, remarks and problem.

        None where undefined.
        """
        named = {"model": self.model, "explainer": self.explainer, "metric": self.metric}
        given = dict.fromkeys(
            ("mean", "median", "statistic", "low", "high", "count", "undefined", "chance", "higher_is_better")
        )
        if self.result is not None:
            summary = self.result.to_dict()
            low, high = self.result.bootstrap_interval()
            given |= {name: summary[name] for name in given if name in summary}
            given |= {"low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high}
        remarks = [] if self.result is None else remark_lines(self.result.remarks)
        return {**named, **given, "remarks": remarks, "problem": self.problem}


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` gives: a row for each network, explainer and metric, in that order."""

    rows: tuple[ComparisonRow, ...]

    def __getitem__(self, names: tuple[str, str, str]) -> MetricResult:
        """Return the result of (model, explainer, metric).

        Raises:
            BcosError: there is none; the message says why.
        """
        for row in self.rows:
            if (row.model, row.explainer, row.metric) == names:
                if row.result is None:
                    raise BcosError(row.problem)
                return row.result
        known = ", ".join(str((row.model, row.explainer, row.metric)) for row in self.rows[:4])
        raise BcosError(f"the comparison has no row {names}; its rows are (model, explainer, metric): {known}, ...")

    def to_dict(self) -> dict[str, Any]:
        """Return all rows, for JSON."""
        return {"rows": [row.to_dict() for row in self.rows]}

    def to_markdown(self) -> str:
        """Return a table: a line for each network and explainer, a column for each metric, problems below."""
        metrics = {row.metric: row for row in self.rows}
        for row in self.rows:
            metrics[row.metric] = metrics[row.metric] if metrics[row.metric].result else row
        heads = [f"{m}{_ARROWS[r.result.higher_is_better if r.result else None]}" for m, r in metrics.items()]
        lines = [["model", "explainer", *heads], ["---"] * 2 + ["---:"] * len(metrics)]
        for model, explainer in dict.fromkeys((row.model, row.explainer) for row in self.rows):
            of_both = {r.metric: r for r in self.rows if (r.model, r.explainer) == (model, explainer)}
            lines.append([_cell(model), _cell(explainer), *(_score(of_both.get(metric)) for metric in metrics)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        failed = [(r.model, r.explainer, r.metric, r.problem) for r in self.rows if r.problem]
        notes = [f"- {_cell(': '.join(filter(None, names)))}" for names in failed]
        return "\n".join([table, *([""] if notes else []), *notes])

    def to_pandas(self) -> Any:
        """Return a :class:`pandas.DataFrame` with a line for each row.

        Raises:
            BcosError: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped, unused-ignore] # reason: optional, without stubs
        except ImportError:
            raise BcosError("to_pandas needs pandas, which is not installed: pip install pandas") from None
        return pd.DataFrame([row.to_dict() for row in self.rows])

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def compare(
    models: nn.Module | Mapping[str, nn.Module],
    explainers: Sequence[str] | Mapping[str, Explainer],
    metrics: Metrics,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    boxes: Sequence[Tensor] | None = None,
    masks: Tensor | None = None,
    encode: Encode | Mapping[str, Encode] | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Measure every explainer on every network by every metric.

    All see the same images and the same random draws. Metrics of grids, which need labels, are measured on those
    images that a network classifies correctly, so each network may have grids of its own. What does not apply, such
    as a method for transformers on a CNN, is a row without a result that says why.

    Args:
        models: networks by name, in eval mode; or one, which is called by its class.
        explainers: names of explainers, or explainers by name.
        metrics: names of metrics; or, by name, options of a metric (``{"gridpg": {"n": 3}}``) or a function of your
            own, ``function(model, explainer, images, encode=..., batch_size=...) -> MetricResult``.
        images: (M, C, H, W), floats, or 8-bit integers that are divided by 255.
        labels: (M,), true classes, for metrics that need them.
        boxes: for each image (4,), for metrics that need them.
        masks: (M, H, W), for metrics that need them.
        encode: from images to what the networks take, such as :class:`bcos_core.AddInverse`, for all or by name;
            None for images that are encoded already.
        batch_size: images explained at once.
        progress: called with the number of rows done and of all rows, after each.

    Returns:
        A :class:`Comparison`.

    Raises:
        BcosError: nothing to compare, unknown names, or data that a metric needs and that is not given.

    >>> from bcos_core import BcosConv2d
    >>> model = nn.Sequential(BcosConv2d(6, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    >>> table = compare({"small": model}, ["bcos", "gradient"], ["sparseness", "completeness"], torch.rand(4, 6, 8, 8))
    >>> [(row.explainer, row.metric) for row in table.rows]
    [('bcos', 'sparseness'), ('gradient', 'sparseness'), ('', 'completeness')]
    """
    named = {type(models).__name__: models} if isinstance(models, nn.Module) else models
    if isinstance(explainers, str) or isinstance(metrics, str) or not (named and explainers and metrics):
        raise BcosError(
            f"compare needs networks, lists of explainers and of metrics, got {len(named)}, {explainers!r} and "
            f"{metrics!r}"
        )
    methods = explainers if isinstance(explainers, Mapping) else {name: get_explainer(name) for name in explainers}
    measures = [_measure(name, metrics) for name in metrics]
    given = {"images": images, "labels": labels, "boxes": boxes, "masks": masks}
    for measure in measures:
        known = (*(name for name, value in given.items() if value is not None), "model", "explainer")
        if missing := [need for need in measure.needs if need not in (*known, "confidences")]:
            raise BcosError(f"the metric {measure.name!r} needs {' and '.join(missing)}; give them to compare")
    if isinstance(encode, Mapping) and (without := [name for name in named if name not in encode]):
        raise BcosError(f"encode has nothing for {', '.join(without)}; give one for each network")
    pairs = [(m, e) for m in measures for e in (methods if "explainer" in m.needs else ("",))]
    rows: list[ComparisonRow] = []
    for model_name, model in named.items():
        encoding = encode[model_name] if isinstance(encode, Mapping) else encode
        confident = None
        for measure, method in pairs:
            data = dict(given)
            try:
                if "confidences" in measure.needs:
                    confident = confident or _classified_correctly(model, images, labels, encoding, batch_size)
                    data |= zip(("images", *_CONFIDENT), confident, strict=True)
                values = {"model": model, "explainer": methods.get(method), **data}
                result = measure(values, {"encode": encoding, "batch_size": batch_size})
                rows.append(ComparisonRow(model_name, method, measure.name, result))
            except BcosError as reason:
                rows.append(ComparisonRow(model_name, method, measure.name, None, str(reason)))
            if progress is not None:
                progress(len(rows), len(named) * len(pairs))
    return Comparison(tuple(rows))


@dataclass(frozen=True)
class _Measure:
    """A metric with its options."""

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    options: Mapping[str, Any]

    def __call__(self, values: Mapping[str, Any], more: Mapping[str, Any]) -> MetricResult:
        options = {**{name: value for name, value in more.items() if takes(self.function, name)}, **self.options}
        with collect_remarks() as remarks:
            result = self.function(*(values[need] for need in self.needs), **options)
        if not isinstance(result, MetricResult):
            raise BcosError(f"the metric {self.name!r} returned {type(result).__name__}, not a MetricResult")
        return replace(result, remarks=tuple(worst([*result.remarks, *remarks])))


def _measure(name: str, metrics: Metrics) -> _Measure:
    chosen: Any = metrics[name] if isinstance(metrics, Mapping) else {}
    if callable(chosen):
        return _Measure(name, chosen, _MAPS, {})
    function = get_metric(name)
    needs = next(spec.needs for spec in metric_specs() if spec.name == name)
    return _Measure(name, function, needs, chosen)


def _classified_correctly(
    model: nn.Module, images: Tensor, labels: Tensor | None, encode: Encode | None, batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and confidences of what the network classifies correctly, as :class:`ConfidentImages` has them."""
    if labels is None or labels.shape != (len(images),):
        raise BcosError(f"labels must be ({len(images)},), got {None if labels is None else tuple(labels.shape)}")
    found = ConfidentImages(len(images))
    for batch in each_batch(model, images, None, encode=encode, batch_size=batch_size):
        with torch.inference_mode():
            logits = model(batch.x).double().cpu()
        numbers = range(batch.samples.start, batch.samples.stop)
        confidences = logits.sigmoid().gather(1, batch.target.cpu()[:, None])[:, 0]
        found.update(images[batch.samples], labels[batch.samples].cpu(), confidences, batch.target.cpu(), numbers)
    return found.collected()


def _score(row: ComparisonRow | None) -> str:
    if row is None or row.result is None:
        return "" if row is None else "–"
    few = f" of {row.result.count}" if row.result.undefined else ""
    interval = row.result.interval_text("{:.3g}".format)
    return f"{row.result.value:.3g}{f' ({interval})' if interval else ''}{few}"


def _cell(text: str) -> str:
    """Text that neither ends a cell nor a line."""
    return " ".join(text.replace("|", "\\|").split())
