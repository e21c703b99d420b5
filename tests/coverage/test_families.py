"""Every family of timm: explained exactly as it is, converted, explained exactly after that, trained one step.

The quick ones run with the other tests; ``nox -s coverage`` runs all, and writes ``docs/coverage.md``.
"""

import json
import math
import os
from pathlib import Path

import pytest
from coverage_check import check
from coverage_networks import families, smallest, table

SECONDS = 4
"""Families that take longer run in the nox session alone."""
ALL = os.environ.get("BCOS_COVERAGE") == "all"
RESULTS = os.environ.get("BCOS_COVERAGE_RESULTS")
"""Folder to which results are written."""

FLOAT64, FLOAT32 = 1e-9, 1e-4
FORWARD64, FORWARD32 = 1e-10, 1e-5
REPRODUCED = 1e-5
OWN = 10
"""In float32 a network may amplify rounding: errors may be so many times those of its own plain logits."""


QUICK = {"convnext", "deit", "efficientnet", "mlp_mixer", "mobilenetv3", "regnet", "resnet", "vision_transformer"}
"""Families that stand for the kinds of layers there are; the others are slow."""
CASES = [pytest.param(f, marks=() if ALL or f in QUICK else pytest.mark.slow) for f in sorted(families())]


@pytest.mark.parametrize("family", CASES)
def test_family_is_explained_and_converted_exactly(family):
    names = families()[family]
    entry = table().get(family, {})
    if not ALL and entry.get("seconds", math.inf) > SECONDS:
        pytest.skip(f"takes {entry.get('seconds', '?')} s; nox -s coverage runs it")
    model = entry["model"] if entry.get("model") in names else smallest(names)
    result = check(family, model, entry.get("size", 224))
    if RESULTS:
        Path(RESULTS, f"{family}.json").write_text(json.dumps(result.to_dict()))
    own = OWN * result.own_float32
    assert result.forward_float64 <= FORWARD64
    assert result.forward_float32 <= max(FORWARD32, own)
    assert result.as_is_float64 <= FLOAT64
    assert result.as_is_float32 <= max(FLOAT32, own)
    assert result.input_share > 0
    assert result.reproduced <= REPRODUCED
    assert result.converted_float64 <= FLOAT64
    assert result.converted_float32 <= FLOAT32
    assert result.replaced > 0
    assert math.isfinite(result.loss)
    assert result.without_gradient == []
