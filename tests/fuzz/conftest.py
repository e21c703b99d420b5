"""Runs targets: a few derandomized inputs each, or, with ``BCOS_FUZZ_MINUTES``, random ones for so long in all."""

import os
import time
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from watch import SECRET, watched

MINUTES = float(os.environ.get("BCOS_FUZZ_MINUTES") or 0)
_ROUND = 500
"""Inputs between two looks at the clock."""
_counts: pytest.StashKey[Counter] = pytest.StashKey()
_targets: pytest.StashKey[int] = pytest.StashKey()


def pytest_configure(config):
    config.stash[_counts] = Counter()


def pytest_collection_finish(session):
    session.config.stash[_targets] = sum("fuzz" in getattr(item, "fixturenames", ()) for item in session.items)


def pytest_terminal_summary(terminalreporter, config):
    for name, count in config.stash[_counts].items():
        terminalreporter.write_line(f"fuzz: {count:>9,} inputs  {name}")
    if total := config.stash[_counts].total():
        terminalreporter.write_line(f"fuzz: {total:>9,} inputs in all")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of what is read; beside it lies a file that is none of its business."""
    around = tmp_path_factory.mktemp("fuzz").resolve()
    (around / SECRET).write_text("secret")
    (around / "folder").mkdir()
    return around / "folder"


@pytest.fixture(autouse=True)
def quiet(folder, monkeypatch):
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fuzz(request, folder):
    """Feed inputs of a strategy to a function that reads them; those in `known` have failed once."""
    name = request.node.name
    counts, targets = request.config.stash[_counts], request.config.stash[_targets]

    def run(read, inputs, *, known=(), examples=100):
        def one(content):
            counts[name] += 1
            with watched(folder):
                read(content)

        for content in known:
            one(content)
        quick = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        if not MINUTES:
            quick(given(inputs)(one))()
            return
        end = time.monotonic() + 60 * MINUTES / targets
        while time.monotonic() < end:
            random = settings(quick, derandomize=False, max_examples=_ROUND)
            random(seed(time.monotonic_ns())(given(inputs)(one)))()

    return run
