"""Graphs as ONNX files, and running them with ONNX Runtime."""

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bcos_core import BcosError
from bcos_explain.export.agreement import Run
from bcos_explain.export.trace import OUTPUTS, errors_only

INPUT = "image"
_LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights; what a message of protocol buffers holds, less some for the graph."""


def check_possible(model: nn.Module, image: Tensor) -> None:
    """Refuse what cannot be written before anything is computed.

    Raises:
        BcosError: a package that is not installed, another precision than float32, or too many weights for one file.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise BcosError(
            f"writing ONNX files needs the packages onnx and onnxscript, and {' and '.join(missing)} is not "
            "installed; run pip install onnx onnxscript onnxruntime, or write a .pt2 file"
        )
    if image.dtype != torch.float32:
        raise BcosError(f"ONNX Runtime convolves in float32, got an example of {image.dtype}; write a .pt2 file")
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    if size > _LARGEST_FILE:
        raise BcosError(f"an ONNX file holds 2 GB, the network has {size / 1e9:.1f} GB of weights; write a .pt2 file")


def to_onnx(program: ExportedProgram, described: Mapping[str, str]) -> tuple[bytes, int]:
    """Translate an exported graph.

    Returns:
        The file's content, and the version of its operators.

    Raises:
        BcosError: an operation that ONNX does not have.
    """
    onnx = import_module("onnx")  # which may be missing, also where types are checked

    try:
        with errors_only("onnxscript", "onnx_ir", "torch.onnx"):
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
            )
    except torch.onnx.OnnxExporterError as reason:
        raise BcosError(f"ONNX has no counterpart of {_untranslated(reason)}; write a .pt2 file") from reason
    assert exported is not None
    proto = exported.model_proto
    for node in [*proto.graph.node, *(n for f in proto.functions for n in f.node)]:
        del node.metadata_props[:]  # where in the source each step comes from, with paths of this machine
    _name_batch(proto)
    onnx.helper.set_model_props(proto, {**{p.key: p.value for p in proto.metadata_props}, **described})
    proto.producer_name = "bcos-explain"
    opset = next(o.version for o in proto.opset_import if o.domain == "")
    return proto.SerializeToString(), opset


def _name_batch(proto: Any) -> None:
    """Call the number of images ``batch``, also where other sizes are multiples of it, unless it is fixed."""
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if symbol:
        for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = re.sub(rf"\b{symbol}\b", "batch", dim.dim_param)


def runner(content: bytes) -> Run | None:
    """Return what runs an ONNX file in ONNX Runtime, on one core; None if that is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> dict[str, Tensor]:
        results = session.run(list(OUTPUTS), {INPUT: images.cpu().numpy()})
        return {name: torch.from_numpy(value).to(images.device) for name, value in zip(OUTPUTS, results, strict=True)}

    return run


def _untranslated(reason: BaseException | None) -> str:
    """Name of the operation that no translation was found for, as PyTorch names it."""
    while reason is not None:
        found = re.search(r"OpOverload\(op='([\w.]+)'", str(reason))
        if found:
            return found[1]
        reason = reason.__cause__
    return "an operation of this network"
