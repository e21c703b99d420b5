"""What tests of interrupted runs compare."""

import json

import safetensors.torch
import torch

TIMING = ("images_per_second", "seconds")


def metrics(run):
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def assert_same(a, b):
    assert metrics(a) == metrics(b)
    one, two = (safetensors.torch.load_file(run / "model.safetensors") for run in (a, b))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
