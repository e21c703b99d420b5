"""Files of recipes, damaged."""

import yaml
from mutations import altered, chosen, damaged

RECIPE = {
    "model": {"name": "cifar10_resnet20", "options": {"depths": [1], "width": 8}},
    "data": {"path": "shards", "image_size": 8, "workers": 0, "augment": {"pad_crop": 4, "horizontal_flip": 0.5}},
    "optimizer": {"name": "adam", "lr": 0.01},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "ema": {"decay": 0.99},
    "early_stopping": {"patience": 3},
    "distillation": {"teacher": "run"},
    "train": {"epochs": 2, "batch_size": 8, "loss": "bce", "trackers": ["tensorboard"]},
    "evaluation": {"explainers": ["bcos"], "metrics": ["gridpg"]},
}
TEXT = yaml.safe_dump(RECIPE).encode()
ODD = [
    b"a: &a [1, 2]\nb: *a\n",
    b"&a [*a]",
    b"a: &a {b: *a}",
    b"!!python/object/apply:os.system ['id']",
    b"model: !!python/name:os.system",
    b"model: !!binary aWQ=",
    b"model: !!set {a, b}",
    b"? [a, b]\n: c",
    b"? {a: b}\n: c",
    b"<<: [a]",
    b"<<: {model: {name: a}}",
    b"model: 2001-01-01\ntrain: 2001-13-45",
    b"train: {epochs: 1_000, batch_size: 0x10}",
    b"train: {epochs: " + b"9" * 5000 + b"}",
    b"train: {epochs: 190:20:30}",
    b"[" * 3000,
    b"- " * 3000,
    b"a: " * 3000,
    b"%YAML 9.9\n---\n{}",
    b"---\n---\n",
    b"\xff\xfea",
    b"\x00",
    b"a: \x1b[2J",
    b"1: 2\nnull: 3\n",
    b"model: {1: 2}\ntrain: {1.5: 2, true: 3}",
]


def as_yaml(document):
    try:
        return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return b""


FILES = altered([RECIPE]).map(as_yaml) | damaged([TEXT, *ODD]) | chosen(ODD)
