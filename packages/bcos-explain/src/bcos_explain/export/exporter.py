"""Exported graphs that explain, and their files."""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bcos_core import BcosError, explain
from bcos_core.files import write_atomically
from bcos_core.inference import reads_values
from bcos_core.probe import elsewhere
from bcos_explain.export.agreement import Agreement, check_agreement
from bcos_explain.export.trace import OUTPUTS, ExplainerGraph, trace

SUFFIXES = (".onnx", ".pt2")
_MESSAGE = 200
"""Characters shown of an error of PyTorch's; the whole is its cause."""
METADATA = "metadata.json"
"""Where a .pt2 file holds its metadata."""


@dataclass(frozen=True)
class SavedExplainer:
    """A file that was written."""

    path: Path
    size: int
    """In bytes."""
    opset: int | None
    """Version of the ONNX operators; None for .pt2."""
    agreement: Agreement
    """With eager :func:`bcos_core.explain`, when it ran the examples."""
    checked_with: str
    """What ran the graph for that."""


def export_explainer(
    model: nn.Module, example_input: Tensor, *, encode: nn.Module | None = None, dynamic_batch: bool = True
) -> ExportedProgram:
    """Export a network *with* its explanation: forward and backward pass become one graph without autograd.

    ``program.module()(image)`` returns a dictionary:

    ==========  ========================  =======================================================================
    ``logits``  (N, K)                    of the network
    ``target``  (N,)                      the largest of them
    ``weight``  (N, C, *spatial)          its dynamic linear map W(x), for the encoded image x
    ``map``     (N, *spatial)             ``Σ_c weight · x``, what each position adds to the logit
    ``bias``    (N,)                      what the network's constants add, measured: ``map.sum() + bias == logit``
    ==========  ========================  =======================================================================

    The graph is run on the example, and compared with :func:`bcos_core.explain`, before it is returned.

    Args:
        model: in eval mode; on any input of the example's height and width, which are fixed.
        example_input: (N, C, H, W) or (N, F), float32 or float64; what `encode` takes, if that is given.
        encode: becomes part of the graph, such as :class:`bcos_core.AddInverse`: the graph then takes images
            in [0, 1]. It is not explained: ``weight`` is that of its result.
        dynamic_batch: for any number of images; False for exactly N.

    Raises:
        BcosError: what :func:`bcos_core.explain` refuses, another precision, a network that cannot be traced or
            whose batch cannot be dynamic, or a graph that does not reproduce :func:`bcos_core.explain`.

    >>> from bcos_core import AddInverse, BcosConv2d
    >>> model = nn.Sequential(BcosConv2d(6, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> program = export_explainer(model, torch.rand(2, 3, 8, 8), encode=AddInverse())
    >>> results = program.module()(torch.rand(5, 3, 8, 8))
    >>> list(results)
    ['logits', 'target', 'weight', 'map', 'bias']
    >>> torch.testing.assert_close(results["map"].sum((1, 2)) + results["bias"], results["logits"].amax(1))

    Source: Böhle et al., TPAMI 2024, section 3.2: inside explanation mode the gradient is W(x).
    """
    program, _ = _export(model, example_input, encode, dynamic_batch)
    return program


def save_explainer(
    path: str | Path,
    model: nn.Module,
    example_input: Tensor,
    *,
    encode: nn.Module | None = None,
    dynamic_batch: bool = True,
    class_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> SavedExplainer:
    """Export a network with its explanation, as :func:`export_explainer` does, and write it to a file.

    An ONNX graph has the input ``image`` and the outputs of :func:`export_explainer`; where ONNX Runtime is
    installed, it runs the graph for the comparison. The file is there whole, or not at all. It holds no paths
    of this machine.

    Args:
        path: ending in ``.onnx`` or ``.pt2``.
        model: and `example_input`, `encode`, `dynamic_batch`: as for :func:`export_explainer`.
        class_names: K names, for the metadata.
        metadata: further keys and values.

    Raises:
        BcosError: what :func:`export_explainer` refuses, another suffix, another number of names, a missing package,
            an operation that ONNX does not have, or 2 GB of weights in an ONNX file.
    """
    from bcos_explain.export import onnx_file

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise BcosError(f"an explainer is saved as .onnx or .pt2, got {path.name!r}")
    if path.suffix == ".onnx":
        onnx_file.check_possible(model, example_input)
    program, found = _export(model, example_input, encode, dynamic_batch)
    described = _description(program, example_input, class_names, dynamic_batch) | dict(metadata or {})
    if path.suffix == ".pt2":
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(described)})
        content, opset, checked_with = buffer.getvalue(), None, "PyTorch"
    else:
        content, opset = onnx_file.to_onnx(program, described)
        checked_with = "PyTorch"
        if (run := onnx_file.runner(content)) is not None:
            checked_with = "ONNX Runtime"
            found = check_agreement(run, model, encode, _batches(example_input, dynamic_batch), "the ONNX graph")
    write_atomically(path, content)
    return SavedExplainer(path, len(content), opset, found, checked_with)


def _export(
    model: nn.Module, image: Tensor, encode: nn.Module | None, dynamic_batch: bool
) -> tuple[ExportedProgram, Agreement]:
    if not isinstance(image, Tensor) or image.dtype not in (torch.float32, torch.float64):
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise BcosError(f"an explainer is exported in float32 or float64, got an example of {kind}; convert it")
    with torch.no_grad():
        x = image if encode is None else encode(image)
    explain(model, x)  # refuses what cannot be explained, with its reasons
    if reads_values(model, x):
        raise BcosError(
            "the network reads values of its input, and may take another path for another, of which a graph has one; "
            "export a network that does not branch on values"
        )
    image = image.detach()
    if dynamic_batch and len(image) < 2:  # a batch of one is taken for a constant
        image = torch.cat([image, image])
    try:
        return _try_export(model, image, encode, dynamic_batch, samples_first=True)
    except BcosError:  # constants with samples elsewhere, as in sequence-first attention
        return _try_export(model, image, encode, dynamic_batch, samples_first=False)


def _try_export(
    model: nn.Module, image: Tensor, encode: nn.Module | None, dynamic_batch: bool, *, samples_first: bool
) -> tuple[ExportedProgram, Agreement]:
    try:
        graph = trace(model, encode, image, dynamic_batch=dynamic_batch, samples_first=samples_first)
    except Exception as reason:  # PyTorch raises several types
        hint = "; a fixed number of images may work (dynamic_batch=False, --batch N)" if dynamic_batch else ""
        raise BcosError(f"the network cannot be recorded as a graph: {_in_short(reason)}{hint}") from reason
    program = _program(graph, image, dynamic_batch)
    found = check_agreement(program.module(), model, encode, _batches(image, dynamic_batch), "the exported graph")
    return program, found


def _program(graph: ExplainerGraph, image: Tensor, dynamic_batch: bool) -> ExportedProgram:
    shapes = ({0: Dim("batch")},) if dynamic_batch else None
    try:
        program = torch.export.export(graph, (image,), dynamic_shapes=shapes)
    except Exception as reason:  # as above
        if not dynamic_batch:
            raise BcosError(f"PyTorch cannot export the graph: {_in_short(reason)}") from reason
        raise BcosError(
            f"the network computes with the number of images, so that its graph is one for {len(image)}: make it take "
            "x.shape[0] instead of len(x) and int(x.shape[0]), or export it for a fixed number of images "
            "(dynamic_batch=False, --batch N)"
        ) from reason
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    program.example_inputs = None  # which may be a private image
    return program


def _in_short(reason: Exception) -> str:
    return textwrap.shorten(f"{type(reason).__name__}: {reason}", _MESSAGE, placeholder=" ...")


def _batches(image: Tensor, dynamic_batch: bool) -> list[Tensor]:
    """What a graph is tried with.

    The example and, if its batch is dynamic, one and three images; then noise and a darker image, since a network may
    branch on what it sees, of which a graph has one way.
    """
    sizes = [image, image[:1], torch.cat([image] * 2)[:3]] if dynamic_batch else [image]
    return [*sizes, elsewhere(image, 1.0), 0.3 * image]


def _description(
    program: ExportedProgram, image: Tensor, class_names: Sequence[str] | None, dynamic_batch: bool
) -> dict[str, str]:
    """Metadata of a file; values that are not text are JSON."""
    outputs = program.module()(image)
    n_classes = outputs["logits"].shape[1]
    if class_names is not None and len(class_names) != n_classes:
        raise BcosError(f"the network has {n_classes} outputs, got {len(class_names)} class names")
    described = {
        "bcos_explain": version("bcos-explain"),
        "input_shape": json.dumps(["batch" if dynamic_batch else len(image), *image.shape[1:]]),
        "outputs": json.dumps(list(OUTPUTS)),
    }
    return described if class_names is None else described | {"class_names": json.dumps(list(class_names))}
