"""Writes ``networks.json``: for each family of timm the model and the image size that the tests check it with.

python tests/coverage/make_table.py [FAMILY ...]
"""

import json
import sys
from pathlib import Path

import timm

sys.path.insert(0, str(Path(__file__).parent))

from coverage_check import check
from coverage_networks import TABLE, families, smallest

SIZES = (64, 96, 128, 160, 192)


def chosen(family, names):
    """The smallest size at which every parameter gets a gradient; else the one where most do."""
    model = smallest(names)
    default = timm.get_pretrained_cfg(model).input_size[-1]
    best, reason = None, "no size"
    for size in (*(s for s in SIZES if s < default), default):
        try:
            result = check(family, model, size)
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}"
            continue
        if best is None or len(result.without_gradient) < len(best.without_gradient):
            best = result
        if not result.without_gradient:
            break
    if best is None:
        print(family, model, "FAILED", reason[:300], flush=True)
        return None
    print(family, model, best.size, f"{best.seconds:.1f} s", best.without_gradient[:3], flush=True)
    return {"model": model, "size": best.size, "seconds": round(best.seconds, 1)}


def main(wanted):
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    found = families()
    for family in wanted or sorted(found.keys() - table.keys()):
        entry = chosen(family, found[family])
        if entry is not None:
            table[family] = entry
            TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


main(sys.argv[1:])
