"""The folder of a run. Imports no torch."""

import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bcos_cli.config import Recipe, dump_recipe, load_recipe
from bcos_cli.config.comparison import differences
from bcos_cli.config.locations import with_absolute_paths
from bcos_cli.config.output_path import check_writable
from bcos_cli.config.versions import changed_versions, read_versions, write_versions
from bcos_cli.file_names import CHECKPOINTS_NAME, CONFIG_NAME, METRICS_NAME, PARTIAL_NAME, SCORES_NAME, VERSIONS_NAME
from bcos_cli.folder_lock import LOCK_NAME, in_use, is_locked, locked
from bcos_cli.messages import tell
from bcos_core.errors import BcosError, shortened, shown
from bcos_core.files import path_in_errors, remove_asides, write_atomically
from bcos_core.text import listed, parse_json, read_text
from bcos_models.file_names import WEIGHTS_NAME

DOING = "training"
VISIBLE_WITHIN = 60.0
"""Seconds after which a file that another machine has written must be visible here."""
FREE_TO_CHANGE = (
    "data.path",
    "data.path_from_run",
    "data.cache",
    "data.cache_gb",
    "train.max_hours",
    "train.keep_checkpoints",
    "train.checkpoint_steps",
    "train.trackers",
    "train.explained_images",
    "evaluation",
)
"""Keys whose values may change when a run is resumed: they do not affect what is learned."""


class RunFolder:
    """Paths of a run, and its small files.

    ``config.yaml`` (the complete recipe), ``versions.json`` (of packages), ``metrics.jsonl`` (a line an epoch),
    ``checkpoints/``, ``model.safetensors``, ``tensorboard/``, ``explanations/`` (of a few images, after every epoch),
    ``evaluation.json``, ``report.html``, ``scores/`` (tables of them), ``.partial/`` (of an evaluation that is not
    finished).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_NAME
        self.versions = path / VERSIONS_NAME
        self.metrics = path / METRICS_NAME
        self.checkpoints = path / CHECKPOINTS_NAME
        self.weights = path / WEIGHTS_NAME
        self.tensorboard = path / "tensorboard"
        self.evaluation = path / "evaluation.json"
        self.report = path / "report.html"
        self.scores = path / SCORES_NAME
        self.partial = path / PARTIAL_NAME
        self.explanations = path / "explanations"
        self.not_finite = path / "not-finite"
        """Folder for batches whose loss was not finite."""
        self.preempted = path / ".preempted"
        """An empty file, there while a run that a signal has ended waits to be resumed."""

    @contextmanager
    def opened(self, recipe: Recipe, *, resume: bool) -> Iterator[None]:
        """Start a run here, or open one that :meth:`resume` will resume, and keep other processes out.

        A refusal changes nothing.

        Raises:
            BcosError: no run to resume, or one with another recipe; no free folder to start one; or one in use.
        """
        self._check_run() if resume else self._check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        with self.locked():
            remove_asides(self.path, {path.name for path in self._files()}.__contains__)
            self._check_recipe(recipe) if resume else self.start(recipe)
            yield

    def check(self, recipe: Recipe, *, resume: bool) -> None:
        """Refuse what :meth:`opened` would, and write nothing."""
        if resume:
            self._check_run()
            self._check_recipe(recipe)
        else:
            self._check_free()
            check_writable(self.path)
        if self.is_in_use():
            raise in_use(self.path, DOING)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training into this folder; refuse it if one does already."""
        with locked(self.path / LOCK_NAME, DOING, timeout=1):  # is_in_use of another process holds it for a moment
            yield

    def is_free(self) -> bool:
        """Whether there is nothing here but hidden files, which a killed start may have left."""
        return not self.path.exists() or (self.path.is_dir() and all(p.name[0] == "." for p in self.path.iterdir()))

    def wait_until_visible(self) -> None:
        """Wait until this process sees the run that the main one has started; refuse a folder that it does not see."""
        until = time.monotonic() + VISIBLE_WITHIN
        while not self.config.exists():
            if time.monotonic() > until:
                raise BcosError(
                    f"the run's folder {str(self.path)!r} is not visible on {socket.gethostname()}; choose one that "
                    "all machines share with --out"
                )
            time.sleep(0.1)

    def is_in_use(self) -> bool:
        """Whether a process is training into this folder."""
        return is_locked(self.path / LOCK_NAME)

    def start(self, recipe: Recipe) -> None:
        """Make the folder for a new run; refuse one with something in it."""
        self._check_free()
        write_atomically(self.config, dump_recipe(recipe))
        write_versions(self.path, recipe)

    def resume(self, recipe: Recipe) -> None:
        """Check that the run to be resumed had this recipe, except for what may change, and write it.

        Raises:
            BcosError: no run here, or one with another recipe.
        """
        self._check_run()
        if self._check_recipe(recipe) != recipe:
            write_atomically(self.config, dump_recipe(recipe))
        if others := changed_versions(read_versions(self.path)):
            tell(f"the run goes on with other versions: {others}")
        write_versions(self.path, recipe)
        self.preempted.unlink(missing_ok=True)

    def _check_recipe(self, recipe: Recipe) -> Recipe:
        """Return the run's recipe; refuse to go on with another one, unless nothing has been learned yet."""
        before = load_recipe(str(self.config), needs=())  # compared, not used
        has_learned = self.weights.exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))
        if has_learned and (changed := changed_keys(with_absolute_paths(before, self.path), recipe)):
            raise BcosError(
                f"the run in {str(self.path)!r} has another recipe ({listed(changed)}); "
                "resume it with the same one, or go on from its weights in another folder: "
                f"bcos train --from {shlex.quote(str(self.path))} --out FOLDER"
            )
        return before

    def _check_free(self) -> None:
        if not self.is_free():
            raise BcosError(
                f"{str(self.path)!r} is not empty; continue that run with --resume, or choose another folder with --out"
            )

    def _files(self) -> tuple[Path, ...]:
        return (self.config, self.versions, self.metrics, self.weights, self.evaluation, self.report)

    def _check_run(self) -> None:
        if not self.config.exists():
            raise BcosError(f"there is no run in {str(self.path)!r} to resume; leave out --resume")
        folders = (self.checkpoints, self.tensorboard, self.explanations, self.not_finite)
        self._check_links(*self._files(), *folders, self.path / LOCK_NAME, self.preempted)
        self.check_links_of_scores()

    def check_links_of_scores(self) -> None:
        """Refuse links that lead out of the folder, where an evaluation would write."""
        self._check_links(self.evaluation, self.report, self.scores, self.partial)

    def _check_links(self, *paths: Path) -> None:
        """A run may come from somebody else, and a link in it name any file that this user can write."""
        inside = self.path.resolve()
        for path in paths:
            for found in (path, *path.rglob("*")):
                if found.is_symlink() and not found.resolve().is_relative_to(inside):
                    raise BcosError(
                        f"{str(found)!r} is a link that leads out of the run's folder, to "
                        f"{shown(str(found.resolve()))}, which would be written; put the file or folder itself there"
                    )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return one dictionary for each epoch; refuse a damaged line."""
        if not self.metrics.exists():
            return []
        lines = read_text(self.metrics).split("\n")[:-1]  # a crash may have cut off what follows the last line break
        return [_epoch(line, f"line {number} of {self.metrics}") for number, line in enumerate(lines, start=1)]

    def keep_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Drop the lines of epochs after the first `epochs`, which will be written again; return the others."""
        kept = [m for m in self.read_metrics() if m["epoch"] <= epochs]
        write_atomically(self.metrics, "".join(json.dumps(m) + "\n" for m in kept))
        return kept

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append the line of an epoch."""
        with path_in_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _epoch(line: str, where: str) -> dict[str, Any]:
    """Read a line of ``metrics.jsonl``: the numbers of an epoch by name, ``epoch`` (from 1) among them.

    Beside them ``scored`` names the images that the scores are of; older versions did not write it.
    """
    try:
        values: Any = parse_json(line, finite=False)  # a loss may be NaN
        numbers = {k: v for k, v in values.items() if k != "scored"} if isinstance(values, dict) else None
        if numbers is None or not all(isinstance(value, int | float) for value in numbers.values()):
            raise BcosError(f"it must hold numbers by name, got {shown(values)}")
        scored = values.get("scored", "")
        if not isinstance(scored, str) or not scored.isprintable():
            raise BcosError(f"scored must be the name of a split, got {shown(scored)}")
        if type(values.get("epoch")) is not int or values["epoch"] < 1:
            raise BcosError(f"its epoch must be at least 1, got {shown(values.get('epoch'))}")
    except BcosError as reason:
        raise BcosError(f"{where} is damaged: {reason}; remove it, or take the file from a copy") from reason
    return dict(values)


def changed_keys(before: Recipe, now: Recipe) -> list[str]:
    """Describe the keys of a run's recipe that have changed and must not."""
    return [
        f"{key}: {shortened(str(left), 60)} there, {shortened(str(right), 60)} here"
        for key, (left, right) in differences(before.model_dump(), now.model_dump()).items()
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
