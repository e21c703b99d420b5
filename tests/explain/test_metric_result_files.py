import csv
import json

import pytest
import torch

from bcos_core import BcosError
from bcos_explain.metrics import MetricResult, write_results


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_score_is_a_row(tmp_path):
    results = {
        "gridpg/bcos": MetricResult(scores=torch.arange(8) / 8, cluster=4, chance=0.25),
        "deletion/bcos": MetricResult(scores=torch.tensor([0.5, torch.nan])),
    }
    written = write_results(tmp_path / "new", results, {"deletion/bcos": ["dog.jpg", "cat, the second.jpg"]})
    assert [path.name for path in written] == ["scores.csv", "scores.json"]
    table = rows(tmp_path / "new" / "scores.csv")
    assert [(r["sample"], r["cell"], float(r["score"])) for r in table if r["result"] == "gridpg/bcos"] == [
        (str(i // 4), str(i % 4), i / 8) for i in range(8)
    ]
    deletion = [(r["sample"], r["cell"], r["score"]) for r in table if r["result"] == "deletion/bcos"]
    assert deletion == [("dog.jpg", "", "0.5"), ("cat, the second.jpg", "", "")]
    summary = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert summary["gridpg/bcos"] == results["gridpg/bcos"].to_dict()
    assert summary["deletion/bcos"]["scores"] == [0.5, None]


def test_every_point_of_a_curve_is_a_row(tmp_path):
    curves = torch.tensor([[1, 0.5, 0.25], [1, 0.1, 0]]).double()
    result = MetricResult(scores=curves.mean(1), curves=curves, curve_x=torch.tensor([0, 0.5, 1]))
    written = write_results(tmp_path, {"deletion": result, "plain": MetricResult(scores=torch.ones(1))})
    assert [path.name for path in written] == ["scores.csv", "scores.json", "curves.csv"]
    table = rows(tmp_path / "curves.csv")
    assert [(int(r["sample"]), float(r["x"]), float(r["value"])) for r in table] == [
        (i, x, curves[i, j]) for i in range(2) for j, x in enumerate([0, 0.5, 1])
    ]


def test_scores_are_read_back_exactly(tmp_path):
    result = MetricResult(scores=torch.rand(20, dtype=torch.float64))
    write_results(tmp_path, {"m": result})
    assert [float(r["score"]) for r in rows(tmp_path / "scores.csv")] == result.scores.tolist()


def test_nothing_is_written_where_keys_do_not_fit(tmp_path):
    results = {"m": MetricResult(scores=torch.rand(4), cluster=2)}
    with pytest.raises(BcosError, match="m has scores of 2 samples, got 4 keys"):
        write_results(tmp_path, results, {"m": list("abcd")})
    with pytest.raises(BcosError, match="keys for n, but results for m"):
        write_results(tmp_path, results, {"n": [1, 2]})
    assert list(tmp_path.iterdir()) == []
