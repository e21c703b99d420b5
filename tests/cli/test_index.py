"""An index is believed where it can be true, and refused in one short line where it cannot."""

import json
import shutil

import pytest

from bcos_cli.config import Augment, dump_recipe
from bcos_cli.data import index as index_module
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.reading import Reading
from bcos_cli.data.sample_order import Drawing
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.explain.shard_maps import MapOptions, explain_shards
from bcos_cli.train.model import build
from bcos_core import BcosError
from bcos_models import InputSpec

SHARD = {"name": "a.tar", "split": "train", "samples": 3, "bytes": 5000, "sha256": "0" * 64}
INDEX = {"source": "s", "fingerprint": "f", "classes": ["cat", "dog"], "shards": [SHARD]}


def shard(**values):
    return {**INDEX, "shards": [{**SHARD, **values}]}


def refused(folder, content):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(BcosError, match=r"index\.json is no index of shards: ") as error:
        load_index(str(folder))
    text = str(error.value)
    assert len(text) < 700 + len(str(folder))
    assert text.isprintable()
    return text


def test_what_can_be_true_is_read(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps(shard(class_counts={"0": 1, "1": 2})))
    assert load_index(str(tmp_path)).class_counts("train") == [1, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**INDEX, "classes": []}, "classes: List should have at least 1 item"),
        ({**INDEX, "classes": ["cat", 3]}, "classes.1: Input should be a valid string"),
        ({**INDEX, "classes": ["cat", "cat"]}, "file: two classes are called 'cat'; give each a name of its own"),
        ({**INDEX, "classes": ["cat", ""]}, "classes.1: String should have at least 1 character"),
        ({**INDEX, "classes": ["cat", "\x1b[2J"]}, r"classes.1: '\x1b[2J' has control characters"),
        ({**INDEX, "classes": ["cat", "\ud800"]}, "classes.1: Input should be a valid string"),
        ({**INDEX, "classes": ["cat", "x" * 10**6]}, "classes.1: String should have at most 1000 characters"),
        ({**INDEX, "x\n" * 10**6: 1}, "Extra inputs are not permitted"),
        ({**INDEX, "multi_label": "yes"}, "multi_label: Input should be a valid boolean"),
        ({**INDEX, "format_version": 0}, "format_version: Input should be greater than or equal to 1"),
        ({**INDEX, "shards": {"a": 1}}, "shards: Input should be a valid list"),
        (shard(samples=10**30), "shards.0.samples: Input should be less than or equal to 1000000000"),
        (shard(samples=-1), "shards.0.samples: Input should be greater than or equal to 0"),
        (shard(samples=0), "file: the shard 'a.tar' cannot have 0 samples in 5,000 bytes"),
        (shard(samples=5001), "file: the shard 'a.tar' cannot have 5,001 samples in 5,000 bytes"),
        (shard(samples=3.0), "shards.0.samples: Input should be a valid integer"),
        (shard(samples="3"), "shards.0.samples: Input should be a valid integer"),
        (shard(samples=True), "shards.0.samples: Input should be a valid integer"),
        (shard(bytes=-1), "shards.0.bytes: Input should be greater than or equal to 0"),
        (shard(sha256="no"), "shards.0.sha256: String should match pattern"),
        (shard(split=""), "shards.0.split: String should have at least 1 character"),
        (shard(split="a\nb"), r"shards.0.split: 'a\nb' has control characters"),
        (shard(class_counts={"2": 3}), "'a.tar' counts images of the class 2, there are 2 classes"),
        (shard(class_counts={"-1": 3}), "shards.0.class_counts.-1"),
        (shard(class_counts={"0": 1}), "'a.tar' counts 1 images in its classes and has 3 samples"),
        ({**shard(class_counts={"0": 4}), "multi_label": True}, "counts 4 images in its classes and has 3 samples"),
    ],
)
def test_what_cannot_be_true_is_one_line(values, message, tmp_path):
    assert message in refused(tmp_path, json.dumps(values).encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{}", "'utf-8' codec can't decode byte 0xff in position 0"),
        (b"", "JSON: Expecting value"),
        (b"[" * 10**6, "values are nested too deeply"),
        (b'{"classes":' * 10**5, "values are nested too deeply"),
        (b'{"source": "a", "source": "b"}', "the key 'source' is given twice"),
        (json.dumps(INDEX).replace("5000", "NaN").encode(), "NaN is not a finite number"),
        (json.dumps(INDEX).replace("5000", "-Infinity").encode(), "-Infinity is not a finite number"),
        (json.dumps(INDEX).replace("5000", "9" * 5000).encode(), "JSON: Exceeds the limit"),
        (b"null", "file: Input should be a valid dictionary"),
    ],
)
def test_what_is_no_json_is_one_line(content, message, tmp_path):
    assert message in refused(tmp_path, content)


def test_an_index_is_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "MAX_INDEX_BYTES", 1000)
    assert "it has more than 1,000 bytes" in refused(tmp_path, b" " * 1001)
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole, not a terabyte
    with pytest.raises(BcosError, match="it has more than 1,000 bytes"):
        load_index(str(tmp_path))


@pytest.fixture
def claimed(shards, tmp_path):
    """Let the index of copied shards claim another number of samples of the first shard of a split."""

    def make(split, samples):
        folder = tmp_path / f"{split}{samples}"
        shutil.copytree(shards, folder)
        index = json.loads((folder / "index.json").read_text())
        record = next(record for record in index["shards"] if record["split"] == split)
        assert record["samples"] == 5
        record["samples"] = samples
        del record["class_counts"]
        (folder / "index.json").write_text(json.dumps(index))
        return folder

    return make


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (3, "has more samples than the 3 that the index says; check it with: bcos shards verify"),
        (4, "has more samples than the 4 that the index says; check it with: bcos shards verify"),
        (6, "ends after 5 samples, the index says at least 6; check it with: bcos shards verify"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_scores_are_of_all_images_or_refused(samples, message, workers, claimed, recipe):
    folder = claimed("test", samples)
    trained = build(recipe(), ["rows", "columns", "corner"])
    with pytest.raises(BcosError, match=f"the shard '{folder}/test-000000.tar' {message}"):
        evaluate_shards(trained, str(folder), EvaluationOptions(metrics=("top1",), workers=workers, batch_size=2))
    if workers == 0:
        with pytest.raises(BcosError, match=message):
            explain_shards(trained, str(folder), folder / "maps", MapOptions(), workers=0)


def test_more_samples_than_claimed_are_not_left_out_as_damaged(claimed, recipe):
    trained = build(recipe(), ["rows", "columns", "corner"])
    options = EvaluationOptions(metrics=("top1",), workers=0, reading=Reading(skip=True))
    with pytest.raises(BcosError, match="has more samples than the 3 that the index says"):
        evaluate_shards(trained, str(claimed("test", 3)), options)
    fewer = evaluate_shards(trained, str(claimed("test", 6)), options)
    assert (fewer.scores.samples, fewer.scores.unread) == (7, 1)


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_training_is_on_all_images_or_refused(samples, claimed, recipe, bcos, line, tmp_path):
    made = recipe(data={"path": str(claimed("train", samples))}, train={"epochs": 1})
    (tmp_path / "r.yaml").write_text(dump_recipe(made))
    told = line(bcos("train", "r.yaml", "--out", "run"))
    assert ("ends after 5 samples" if samples == 6 else f"more samples than the {samples} that the index says") in told


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("skip", [False, True])
def test_what_is_left_over_by_whole_steps_is_read_once_too(repeats, world, skip, claimed):
    """Of 23 or 20 samples an epoch takes 16 or 18: wherever it begins, the end of no shard stays unread."""
    folder = str(claimed("train", 4))
    index = load_index(folder)

    def read(seed, rank, epoch):
        drawing = Drawing(shuffle=4, repeats=repeats)
        options = {"batch_size": 8 if world == 1 else 6, "seed": seed, "rank": rank, "world": world, "drawing": drawing}
        batches = make_batches(
            folder,
            index,
            "train",
            InputSpec(size=8, resize=None),
            augment=Augment(),
            reading=Reading(skip=skip),
            **options,
        )
        return sum(len(labels) for _, labels, _ in batches.epoch(epoch))

    for seed in range(12):
        told = []
        for epoch in range(repeats):
            for rank in range(world):
                try:
                    assert read(seed, rank, epoch) > 0
                except BcosError as reason:
                    told.append(str(reason))
        assert any("has more samples than the 4 that the index says" in reason for reason in told), seed
