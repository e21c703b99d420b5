"""Folders of runs, and what is kept of measurements and packings that were interrupted."""

import json

import pytest
from hypothesis import strategies as st
from mutations import altered, as_json, damaged, json_files
from recipe_files import FILES, TEXT

from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem
from bcos_cli.evaluate.resumable import PartialResults
from bcos_cli.explain.maps_folder import MapsFolder, read_note
from bcos_cli.file_names import PROGRESS_NAME
from bcos_cli.runs.compare import recipe_rows, score_rows
from bcos_cli.runs.run import find_runs, read_run

EPOCH = {"epoch": 1, "train_loss": 0.5, "test_top1": 0.5, "test_loss": 0.4, "seconds": 3.0, "images_per_second": 9.0}
SCORES = {"model": "run", "metrics": {"top1": 0.5, "gridpg/bcos": 0.7}, "count": 7}
VERSIONS = {"versions": {"torch": "2.8.0", "zoo": "1"}, "plugins": {"model": {"lion": "zoo 1"}}}
PART = [
    0,
    {"scores": [0.1, 0.2], "cluster": 1, "higher_is_better": True, "chance": 0.5, "curves": [[1.0]], "curve_x": [0.0]},
]


def lines(*valid):
    """Files of a JSON document on each line, some damaged."""
    whole = st.lists(altered(valid).map(as_json), min_size=1, max_size=3).map(lambda found: b"\n".join(found) + b"\n")
    return whole | damaged([as_json(document) + b"\n" for document in valid]) | json_files(*valid)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "evaluation.json", "versions.json"])
def test_a_run_is_shown_or_refused_in_one_line(fuzz, folder, name):
    run = folder / "runs" / "a"
    run.mkdir(parents=True, exist_ok=True)
    documents = {"evaluation.json": SCORES, "versions.json": VERSIONS}
    valid = {"config.yaml": TEXT, "metrics.jsonl": as_json(EPOCH) + b"\n"}
    valid |= {file: as_json(document) for file, document in documents.items()}

    def read(content):
        for file, usual in valid.items():
            (run / file).write_bytes(content if file == name else usual)
        found = [read_run(path) for path in find_runs(folder / "runs")]
        for one in found:
            json.dumps(
                [one.model, one.versions, one.max_epochs, one.measure, one.last, one.best, one.minutes, one.changed]
            )
        recipe_rows(found * 2)
        score_rows(found * 2)

    read(valid[name])
    json_documents = {file: json_files(document) for file, document in documents.items()}
    fuzz(read, {"config.yaml": FILES, "metrics.jsonl": lines(EPOCH), **json_documents}[name])


def test_partial_results_are_taken_up_or_refused_in_one_line(fuzz, folder):
    (folder / "partial" / "f").mkdir(parents=True)

    def read(content):
        (folder / "partial" / "f" / "gridpg.0.jsonl").write_bytes(content)
        parts = PartialResults(folder / "partial", "f", 0).load("gridpg")
        assert all(isinstance(number, int) and isinstance(part["scores"], list) for number, part in parts.items())

    fuzz(read, lines(PART))


def test_a_note_of_a_packing_is_taken_up_or_refused_and_nothing_of_others_removed(fuzz, folder):
    source = ArraySource(["a"], [ImageItem("train/a/0.png", "train", 0)], {"train/a/0.png": b"no image"})
    place = folder / "packed"
    place.mkdir()
    (place / "train-000000.tar").write_bytes(b"mine")
    record = {"name": "train-000000.tar", "split": "train", "samples": 1, "bytes": 4, "sha256": "0" * 64}
    note = {"fingerprint": "f", "finished": [{"record": record, "skipped": [{"path": "a", "reason": "b"}]}]}

    def read(content):
        (place / PROGRESS_NAME).write_bytes(content)
        try:
            pack(source, "a", place, workers=1)
        finally:
            assert (place / "train-000000.tar").read_bytes() == b"mine"

    fuzz(read, json_files(note), examples=150)


def test_notes_on_maps_are_taken_up_or_refused_in_one_line(fuzz, folder):
    described = {"format_version": 1, "model": "a", "data": "b", "classes": ["cat"], "options": {"methods": ["bcos"]}}
    (folder / "maps" / ".finished").mkdir(parents=True)

    def read(content):
        (folder / "maps" / ".finished" / "description").write_bytes(content)
        read_note(folder / "maps" / ".finished" / "description")
        MapsFolder(folder / "maps", described, []).check()

    read(as_json(described))
    fuzz(read, json_files(described))
