import contextlib
import io
import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from stripes import SIDE, striped

from bcos_cli.config import validate_recipe
from bcos_cli.config.trust import trust_runs
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png, open_source
from bcos_cli.processes.group import process_state


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """Seeded, one thread, in an empty folder, without what another test left in Accelerate's shared state."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    trust_runs(False)
    torch.set_num_threads(threads)
    for name in set(os.environ) - set(before):
        del os.environ[name]


def synthetic(train=24, test=7):
    """Three classes; `train` and `test` images in all."""
    items, pngs = [], {}
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            path = f"{split}/{i % 3}/{i:03d}.png"
            items.append(ImageItem(path, split, i % 3))
            pngs[path] = encode_png(striped(i % 3, i + 10_000 * (split == "test")))
    return ArraySource(["rows", "columns", "corner"], items, pngs)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Folder of shards: 24 training images in shards of 5, 7 test images in shards of 5."""
    folder = tmp_path_factory.mktemp("synthetic") / "shards"
    pack(synthetic(), "synthetic", folder, samples_per_shard=5, workers=1)
    return str(folder)


@pytest.fixture
def recipe(shards):
    """A tiny recipe on the synthetic shards; sections are merged over it."""

    def make(**sections):
        values = {
            "model": {"name": "cifar10_resnet20", "options": {"depths": [1], "width": 8}},
            "data": {
                "path": shards,
                "image_size": SIDE,
                "image_channels": 1,
                "workers": 0,
                "shuffle_buffer": 8,
            },
            "optimizer": {"lr": 0.01},
            "train": {"epochs": 2, "batch_size": 8},
            "evaluation": {
                "batch_size": 4,
                "gridpg_grids": 2,
                "gallery_per_class": 1,
                "neurons": 2,
                "explainers": ["bcos", "input_x_gradient"],
            },
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return validate_recipe(values, "of the test")

    return make


@pytest.fixture
def make_tree(tmp_path):
    """Write images (RGB, 6×6) at these paths below a new folder; bytes are written as they are."""

    def make(files, name="tree"):
        root = tmp_path / name
        for i, (path, content) in enumerate(dict.fromkeys(files).items() if isinstance(files, list) else files.items()):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                content = Image.fromarray(np.full((6, 6, 3), i % 250, np.uint8))
            if isinstance(content, Image.Image):
                content.save(root / path)
            else:
                (root / path).write_bytes(content)
        return root

    return make


@pytest.fixture
def tree(make_tree):
    """Two splits, two classes, five images each."""
    return make_tree([f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in range(5)])


@pytest.fixture
def folder_source():
    return lambda root: open_source(str(root))


@pytest.fixture
def bcos(monkeypatch):
    """Run the program in this process: (status, standard output, standard error)."""
    from bcos_cli import console, main

    def run(*arguments, debug=False):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            monkeypatch.setattr(console.out, "width", 200)
            status = main.run([str(a) for a in arguments], debug=debug)
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def in_processes():
    """Call a function of rank and count, without gradients, in processes that Accelerate joins: what each returns."""

    def run(count, function):
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def work(rank):
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            os.environ.update(zip(names, map(str, (rank, rank, count, "127.0.0.1", port)), strict=True))
            PartialState._reset_state()
            process_state()
            results.put((rank, function(rank, count)))
            torch.distributed.destroy_process_group()

        processes = [context.Process(target=work, args=(rank,), daemon=True) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        return [result for _, result in sorted((results.get() for _ in processes), key=lambda pair: pair[0])]

    return run


@pytest.fixture
def line():
    """The one line that a mistake leaves on standard error."""

    def check(result, status=2):
        assert result[0] == status, result
        lines = [text for text in result[2].splitlines() if text.startswith("bcos: ")]
        assert len(lines) == 1, result[2]
        assert result[2].rstrip().splitlines()[-1] == lines[0], result[2]
        assert "Traceback" not in result[2]
        return lines[0]

    return check


@pytest.fixture
def files():
    """Contents of all files of a folder, by name."""
    return lambda folder: {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.is_file()}
