"""The table of an evaluation in the terminal."""

from bcos_cli import console
from bcos_cli.evaluate.metrics import describe, format_value
from bcos_cli.evaluate.result import Evaluation, by_score
from bcos_explain.explainers import remark_lines

COLUMNS = ("metric", "value", "95 % interval", "by chance", "scores", "better")
_DIRECTIONS = {True: "higher", False: "lower", None: ""}


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores, what could not be measured, and the remarks of explainers on their maps."""
    results = by_score(evaluation.explanations)
    rows = []
    for name, value in evaluation.metrics.items():
        metric, result = name.partition("/")[0], results.get(name)
        interval = chance = count = ""
        better = describe(metric).higher_is_better
        if result is not None:
            interval = " to ".join(format_value(metric, end) for end in result.bootstrap_interval())
            chance = "" if result.chance is None else format_value(metric, result.chance)
            count, better = f"{result.count:,}", result.higher_is_better
        rows.append((name, format_value(metric, value), interval, chance, count, _DIRECTIONS[better]))
    rows += [(name, f"not measured: {reason}", "", "", "", "") for name, reason in evaluation.skipped.items()]
    rows += [("note", note, "", "", "", "") for note in evaluation.notes]
    images = f"{evaluation.scores.samples:,} images of " if evaluation.classification else ""
    title = f"{evaluation.model} on {images}{evaluation.data} ({evaluation.split})"
    used = [i for i in range(len(COLUMNS)) if i < 2 or any(row[i] for row in rows)]
    console.table(title, [COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows])
    for name, result in results.items():
        for line in remark_lines(result.remarks):
            console.out.print(f"{name}: {line}", markup=False)
