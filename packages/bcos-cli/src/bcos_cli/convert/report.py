"""What ``bcos convert`` prints: what became of the layers, what each step costs, and what to do next."""

import math
import shlex
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bcos_cli import console
from bcos_core.image_share import percent
from bcos_models import ConversionReport
from bcos_models.conversion import Step
from bcos_models.convert.probe import ProbeStep

_RECIPE = "bcosify_photographs"
"""What fine-tunes a converted network."""


def next_step(out: Path, data: str, teacher: str) -> str:
    """Return where the network was written, and the command that trains it."""
    command = [_RECIPE, "--from", str(out), "--data", data, "-o", f"distillation.teacher={teacher}"]
    return (
        f"written to {out}; it is to be fine-tuned, with the network as it was for a teacher: bcos train "
        + shlex.join(command)
    )


def print_report(name: str, report: ConversionReport, *, every_layer: bool) -> None:
    """Print what each kind of layer became, and why; before that, the same of every layer."""
    line = partial(console.out.print, soft_wrap=True)
    for step in report.steps if every_layer else ():
        without = f"; without {', '.join(step.dropped)}" if step.dropped else ""
        line(f"{step.name}: {_change(step)} ({step.reason}{without})")
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for step in report.steps:
        kinds[_change(step), step.reason].append(step.name)
    console.table(
        f"{name}: {len(report.replaced)} layers replaced, {len(report.kept)} stay",
        ["what", "count", "rule", "first"],
        [(what, len(names), reason, names[0]) for (what, reason), names in kinds.items()],
        prose=["rule"],
    )
    for note in report.notes:
        line(f"· {note}")
    if not every_layer:  # of a network that has weights
        constants = sorted(report.constants.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {share:.1%}" for name, share in constants[:6] if share > 0)
        line(f"· constants that remain, as shares of a logit's size: {shown or 'none'}")
        share, cancelled = (percent(math.nan if v is None else v) for v in (report.image_share, report.cancellation))
        line(f"· for {report.measured_on}: image share {share}, cancellation {cancelled}")


def print_probe(steps: Sequence[ProbeStep]) -> None:
    """Print what each step of a conversion costs; nothing where there was no probe."""
    if not steps:
        return
    rows = [
        (
            s.name,
            f"{s.agreement:.1%}",
            "" if s.accuracy is None else f"{s.accuracy:.1%}",
            f"{s.spread:.2f}",
            percent(s.image_share),
        )
        for s in steps
    ]
    console.table(
        "what each step costs, norms measured anew",
        ["step", "as the original", "top-1", "spread of logits", "image share"],
        rows,
    )


def _change(step: Step) -> str:
    return step.before if step.after == step.before else f"{step.before} → {step.after}"
