"""Explaining files: what ``bcos explain`` does."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bcos_cli import console
from bcos_cli.config.output_path import check_folder
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.explain.answers import EXACT, Asker, Subject
from bcos_cli.explain.clips import ClipExplainer
from bcos_cli.explain.contact_sheet import ContactSheet
from bcos_cli.explain.frames import is_clip
from bcos_cli.explain.image_files import Failure, ImageFile, Loaded, find_images, read_image
from bcos_cli.explain.loaded_model import default_device, load_trained
from bcos_cli.explain.options import ClipOptions, PictureOptions
from bcos_cli.explain.records import Written
from bcos_cli.explain.scales import Scales, Shelf, scales_of
from bcos_cli.explain.targets import Wanted, wanted
from bcos_cli.explain.writer import Writer
from bcos_explain import get_explainer

RECORDS = "explanations.json"
"""File with all numbers, which comes last."""


def explain_files(
    run_or_model: str,
    paths: Sequence[str | Path],
    out: Path,
    *,
    targets: Sequence[str] = (),
    top_k: int | None = None,
    contrasts: Sequence[str] = (),
    methods: Sequence[str] = (EXACT,),
    weights: str | None = None,
    batch_size: int = 16,
    pictures: PictureOptions | None = None,
    clips: ClipOptions | None = None,
) -> Written:
    """Explain image files and write pictures, arrays and ``explanations.json`` to `out`.

    Args:
        run_or_model: as :func:`bcos_cli.explain.loaded_model.load_trained` takes it.
        paths: files, folders and patterns; see :func:`bcos_cli.explain.image_files.find_images`.
        out: folder; made if it is missing.
        targets: class names or numbers; with none, no `top_k` and no `contrasts` the predicted class of each image.
        top_k: explain also so many of the most likely classes that are not among the targets.
        contrasts: ``"A:B"``, why A and not B, or ``"B"``, why the predicted class and not B (where that is what is
            predicted: and not the second most likely). A and B are explained too.
        methods: names of explainers.
        weights: of a model by name.
        batch_size: images explained at a time.
        pictures: what is drawn, and how.
        clips: the same for videos and animated images.

    Raises:
        BcosError: an unknown model, class, explainer or path. A damaged file is no error but noted in the
            result.
    """
    pictures, clips = pictures or PictureOptions(), clips or ClipOptions()
    files, empty = find_images(paths)
    check_folder(out, RECORDS, inputs=[file.path for file in files])
    explainers = {name: get_explainer(name) for name in methods}
    trained = load_trained(run_or_model, weights)
    asked = wanted(targets, top_k, contrasts, trained.classes)
    trained.model.to(default_device())
    out.mkdir(parents=True, exist_ok=True)
    writer = Writer(out, trained.classes, pictures)
    asker = Asker(trained, explainers, keep_weight=pictures.raw_weight)
    with _waiting_room(pictures, out) as folder:
        session = _Session(asker, asked, writer, clips, batch_size, Written(failures=empty), folder)
        written = session.run(files)
    written.save(out / RECORDS, model=run_or_model, scale=pictures.scale)
    return written


def _waiting_room(pictures: PictureOptions, out: Path) -> AbstractContextManager[str | None]:
    if pictures.scale == "own":
        return nullcontext()
    return TemporaryDirectory(dir=out, prefix=".waiting-")


@dataclass
class _Pending:
    """What is known of an image beside its answers."""

    file: ImageFile
    size: tuple[int, int]
    notes: tuple[str, ...]


@dataclass
class _Session:
    """One call, from files to records in their order."""

    asker: Asker
    wanted: Wanted
    writer: Writer
    clip_options: ClipOptions
    batch_size: int
    written: Written
    folder: str | None
    """Where images wait for a common scale; None if each has its own."""
    pending: list[_Pending] = field(default_factory=list)

    def run(self, files: Sequence[ImageFile]) -> Written:
        """Explain all files, clips where they come."""
        shelf = None if self.folder is None else Shelf(Path(self.folder))
        sheet = ContactSheet(self.writer) if self.writer.options.contact_sheet else None
        with console.counted("explaining", len(files)) as counter:
            for group in _groups(files, self.batch_size):
                if isinstance(group, ImageFile):
                    counter.advance(0, note=f"clip {group.path.name}")
                    self._clip(group)
                    counter.advance(1, note="")
                    continue
                loaded = list(self._load(group))
                for pending, subject in self._answer(loaded):
                    if shelf is None:
                        self._write(pending, subject, scales_of([subject]), sheet)
                    else:
                        shelf.add(subject)
                        self.pending.append(pending)
                counter.advance(len(group), images=len(loaded))
        if shelf is not None and len(shelf):
            scales = scales_of(shelf)
            for pending, subject in zip(self.pending, shelf, strict=True):
                self._write(pending, subject, scales, sheet)
        if sheet is not None:
            sheet.close()
            self.written.contact_sheets = sheet.names
        return self.written

    def _load(self, group: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, Loaded]]:
        for file in group:
            try:
                yield file, read_image(file.path, self.asker.trained.input)
            except UnreadableImageError as reason:
                self.written.failures.append(Failure(str(file.path), str(reason)))

    def _answer(self, loaded: Sequence[tuple[ImageFile, Loaded]]) -> Iterator[tuple[_Pending, Subject]]:
        if not loaded:
            return
        images = torch.stack([image.pixels for _, image in loaded])
        for (file, image), subject in zip(loaded, self.asker.answer(images, self.wanted), strict=True):
            yield _Pending(file, image.size, image.notes), subject

    def _write(self, pending: _Pending, subject: Subject, scales: Scales, sheet: ContactSheet | None) -> None:
        records = self.writer.write(pending.file, subject, scales, pending.size, pending.notes)
        self.written.explanations += records
        if sheet is not None:
            sheet.add(pending.file, subject, scales)

    def _clip(self, file: ImageFile) -> None:
        explainer = ClipExplainer(self.asker, self.wanted, self.writer, self.clip_options, self.batch_size)
        try:
            self.written.explanations += explainer.explain(file)
        except UnreadableImageError as reason:
            self.written.failures.append(Failure(str(file.path), str(reason)))


def _groups(files: Sequence[ImageFile], size: int) -> Iterator[list[ImageFile] | ImageFile]:
    """Images in groups of `size`, each clip alone, in order."""
    group: list[ImageFile] = []
    for file in files:
        clip = is_clip(file.path)
        if group and (clip or len(group) == size):
            yield group
            group = []
        if clip:
            yield file
        else:
            group.append(file)
    if group:
        yield group
