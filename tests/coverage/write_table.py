"""Writes ``docs/coverage.md`` from the results that the tests left in a folder.

python tests/coverage/write_table.py RESULTS docs/coverage.md
"""

import json
import sys
from pathlib import Path

import timm
import torch

HEAD = """# Every family of timm

timm {timm}, torch {torch}: the smallest classifier of each of its {count} families (modules), untrained, at reduced resolution, with
noise on all biases, gains and embeddings and with measured batch statistics, so that nothing is hidden by a zero.
`uv run nox -s coverage` makes this table; it fails where a bound is missed.

- **as is**: error of `Σ W·x + bias = logit` on the unmodified network, float64 (bound 1e-9) and float32 (1e-4, or ten times what the plain
  network's own float32 logits are off). `bias` is measured as `Σ gradient · value` over every constant that the network adds,
  never as a difference. The values are those of the plain forward pass, to 1e-10 and 1e-5.
- **B = 1, kept**: difference of the logits after a conversion with everything kept, float64 (bound 1e-5).
- **converted**: error of the explanation after `bcosify(model)` with its defaults, float64 (1e-9) and float32 (1e-4).
- **layers**: how many were replaced, how many stay.
- **B**: of the converted network, which is then trained for one step, with finite loss and a finite, non-zero gradient in every parameter; below 2
  where an untrained network without norms has no signal left in float32.

All errors are relative to the largest logit or sum of contributions. Networks that cast to float32 themselves compute in float64 for the
float64 columns. Relative to the sum of contributions alone the largest float64 error is {strict:.0e}, as they are.

| family | model | pixels | as is, float64 | float32 | B = 1, kept | converted, float64 | float32 | layers | B | note |
|---|---|---|---|---|---|---|---|---|---|---|
"""
SHORT = (
    ("put together", "input put together from 6 channels to 3"),
    ("comes right before it", "classifier behind the pooling"),
    ("by itself", "no single classifier layer"),
    ("called as a function", "{0}"),
)


def note(result):
    found = [text.format(line) for line in result["notes"] for key, text in SHORT if key in line]
    return "; ".join(found)


def row(result):
    errors = ("as_is_float64", "as_is_float32", "reproduced", "converted_float64", "converted_float32")
    numbers = " | ".join(f"{result[name]:.0e}" for name in errors)
    layers = f"{result['replaced']} / {result['kept']}"
    where = f"{result['family']} | `{result['model']}` | {result['size']}"
    return f"| {where} | {numbers} | {layers} | {result['exponent']:g} | {note(result)} |"


def main(folder, target):
    results = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    strict = max(result["as_is_float64"] / result["input_share"] for result in results)
    versions = {"timm": timm.__version__, "torch": torch.__version__.split("+")[0]}
    head = HEAD.format(**versions, count=len(results), strict=strict)
    Path(target).write_text(head + "\n".join(map(row, results)) + "\n")


main(*sys.argv[1:])
