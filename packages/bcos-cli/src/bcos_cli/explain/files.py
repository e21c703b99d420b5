"""Explaining image files: what ``bcos explain`` does."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bcos_cli import console
from bcos_cli.config.network import load_network
from bcos_cli.config.output_path import check_folder
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.input_image import InputImage, PartlyRead, read_image
from bcos_cli.explain.batch import Request
from bcos_cli.explain.clips import ClipExplainer
from bcos_cli.explain.contact_sheet import ContactSheet
from bcos_cli.explain.frames import in_groups
from bcos_cli.explain.image_files import Failure, ImageFile
from bcos_cli.explain.options import ClipOptions, PictureOptions
from bcos_cli.explain.sheets import Scale
from bcos_cli.explain.store import ImageStore
from bcos_cli.explain.targets import target_choice
from bcos_cli.explain.writer import ExplainedFiles, Writer
from bcos_cli.file_names import EXPLANATIONS_NAME
from bcos_cli.folder_lock import LOCK_NAME, in_use, is_locked, locked_folder
from bcos_cli.messages import tell
from bcos_cli.processes.group import default_device
from bcos_core.text import listed
from bcos_explain import ExplainedImage, get_explainer
from bcos_models.images import Range

"""File with all numbers: ``finished`` says whether the call came to its end."""
_DOING = "explaining"


def explain_files(
    run_or_model: str,
    files: Sequence[ImageFile],
    out: Path,
    *,
    empty: Sequence[Failure] = (),
    targets: Sequence[str] = (),
    top_k: int | None = None,
    contrasts: Sequence[str] = (),
    methods: Sequence[str] = ("bcos",),
    weights: str | None = None,
    classes: Path | None = None,
    batch_size: int = 16,
    range: Range | None = None,
    truncated: bool = False,
    pictures: PictureOptions | None = None,
    clips: ClipOptions | None = None,
) -> ExplainedFiles:
    """Explain image files and write pictures, arrays and ``explanations.json`` to `out`.

    Args:
        files: what :func:`bcos_cli.explain.image_files.find_images` found.
        empty: folders in which it found nothing, for the records.
        targets: class names or numbers; without any, `top_k` or `contrasts`, the predicted class of each image.
        top_k: number of most likely classes to explain besides the targets.
        contrasts: ``"A:B"``, why A and not B, or ``"B"``, why the predicted class and not B (if B is
            predicted: and not the second most likely). A and B are explained too.
        weights: a file of weights, for a model by name.
        classes: a file with the names of the network's outputs.
        range: the values that are black and white in images of more than 8 bits; None for those of the network.
        truncated: read JPEGs that were cut off.

    Raises:
        BcosError: an unknown model, class, explainer or path. A damaged file is not an error; it is
            noted in the result.
    """
    pictures, clips = pictures or PictureOptions(), clips or ClipOptions()
    check_folder(out, EXPLANATIONS_NAME, inputs=[file.path for file in files])
    if is_locked(out / LOCK_NAME):
        raise in_use(out, _DOING)
    for name in methods:
        get_explainer(name)
    trained = load_network(run_or_model, weights, classes, range=range)
    choice = target_choice(targets, top_k, contrasts, trained.classes)
    trained.model.to(default_device())
    request = Request(trained, choice, methods, batch_size, keep_weight=pictures.raw_weight, smooth=pictures.smooth)
    writer = Writer(out, trained.classes, pictures)
    with locked_folder(out, _DOING), _waiting_room(out) if pictures.scale == "shared" else nullcontext() as folder:
        store = None if folder is None else ImageStore(Path(folder))
        session = _Session(request, writer, ClipExplainer(request, writer, clips), store, truncated)
        session.written.failures += empty
        about = {"model": run_or_model, "scale": pictures.scale, "smooth": pictures.smooth}
        with _recorded(session.written, out / EXPLANATIONS_NAME, about):
            session.run(files)
    session.partial.tell()
    _tell_earlier(out, session.written)
    return session.written


def _waiting_room(out: Path) -> TemporaryDirectory[str]:
    """Folder for images that wait for a common scale."""
    return TemporaryDirectory(dir=out, prefix=".waiting-")


@contextmanager
def _recorded(written: ExplainedFiles, path: Path, about: Mapping[str, object]) -> Iterator[None]:
    """Write the records, also of what there is when the block ends early; by them a later call knows the folder."""
    is_new, lock = not path.exists(), path.with_name(LOCK_NAME)
    if is_new:
        written.save(path, **about, finished=False)
    try:
        yield
    except BaseException:
        if written.explanations:
            written.save(path, **about, finished=False)
        elif is_new and all(other in (path, lock) or other.is_dir() for other in path.parent.iterdir()):
            path.unlink()  # nothing was written
        raise
    written.save(path, **about, finished=True)


def _tell_earlier(out: Path, written: ExplainedFiles) -> None:
    """Say which files of the folder are not of this call: they may be of another network, and no record is of them."""
    ours = written.names() | {EXPLANATIONS_NAME}
    earlier = sorted(path.name for path in out.iterdir() if path.is_file() and path.name not in ours)
    if earlier:
        tell(
            f"{len(earlier):,} files of earlier calls stay in {out}, which {EXPLANATIONS_NAME} no longer lists: "
            f"{listed(earlier)}"
        )


@dataclass
class _Session:
    """One call, from files to records in their order."""

    request: Request
    writer: Writer
    clips: ClipExplainer
    store: ImageStore | None
    """Store of images that wait for a common scale; None if each has its own."""
    truncated: bool
    """Whether JPEGs that were cut off are read."""
    written: ExplainedFiles = field(default_factory=ExplainedFiles)
    waiting: list[tuple[ImageFile, InputImage]] = field(default_factory=list)
    """Files of the images in the store."""
    partial: PartlyRead = field(default_factory=PartlyRead)

    def run(self, files: Sequence[ImageFile]) -> None:
        """Explain all files in order."""
        self.sheet = ContactSheet(self.writer) if self.writer.options.contact_sheet else None
        with console.counted("explaining", len(files)) as counter:
            for group in in_groups(files, self.request.batch_size):
                if isinstance(group, ImageFile):
                    counter.advance(0, note=f"clip {group.path.name}")
                    self._explain_clip(group)
                    counter.advance(1, note="")
                else:
                    counter.advance(len(group), images=self._explain_images(group))
        if self.store is not None and len(self.store):
            scale = Scale.of(self.store)
            for (file, loaded), image in zip(self.waiting, self.store, strict=True):
                self._write(file, loaded, image, scale)
        if self.sheet is not None:
            self.sheet.close()
            self.written.contact_sheets = self.sheet.names

    def _explain_images(self, group: Sequence[ImageFile]) -> int:
        """Explain some images; return how many could be read."""
        read = list(self._read(group))
        if not read:
            return 0
        images = self.request.explain(torch.stack([loaded.pixels for _, loaded in read]))
        for (file, loaded), image in zip(read, images, strict=True):
            if self.store is None:
                self._write(file, loaded, image, Scale.of([image]))
            else:
                self.store.add(image)
                self.waiting.append((file, replace(loaded, pixels=torch.empty(0))))
        return len(read)

    def _read(self, group: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, InputImage]]:
        for file in group:
            try:
                image = read_image(file.path, self.request.trained.input, truncated=self.truncated)
            except UnreadableImageError as reason:
                self.written.failures.append(Failure(str(file.path), str(reason)))
                continue
            self.partial.add(file.path, image)
            yield file, image

    def _write(self, file: ImageFile, loaded: InputImage, image: ExplainedImage, scale: Scale) -> None:
        self.written.explanations += self.writer.write(file, image, scale, loaded.size, loaded.notes)
        if self.sheet is not None:
            self.sheet.add(file, image, scale)

    def _explain_clip(self, file: ImageFile) -> None:
        try:
            self.written.explanations += self.clips.explain(file)
        except UnreadableImageError as reason:
            self.written.failures.append(Failure(str(file.path), str(reason)))
