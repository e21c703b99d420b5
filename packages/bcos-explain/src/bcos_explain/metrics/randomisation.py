"""Model randomisation: an explanation must change when what the network has learnt is destroyed."""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.layers import full_copy
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.metrics.batches import Encode, Progress, each_map
from bcos_explain.metrics.result import MetricResult
from bcos_explain.metrics.similarity import Similarity, similarity


def model_randomisation(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    stages: int = 5,
    kind: Similarity = "spearman",
    seed: int = 0,
) -> MetricResult:
    """Similarity of the map to the map of the network with parameters that were shuffled.

    The entries of each parameter are shuffled, which draws them again from their own distribution and so keeps
    the size of signals; module by module from the logits back to the input, in `stages` steps of as many
    modules, without undoing earlier steps (the cascade). The explained class stays that of the intact network.
    The network itself is not touched.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            each image is explained 1 + `stages` times.
        stages: steps of the cascade; fewer if there are fewer modules with parameters.
        kind: of similarity: ``"pearson"`` or ``"spearman"`` correlation, or ``"ssim"``.
        seed: of the shuffles.

    Returns:
        Similarity when every parameter is shuffled, lower is better, 0 for unrelated maps, with a curve over
        the share of modules that are shuffled. Undefined where a map is constant.

    Raises:
        BcosError: a network without parameters, or as the explainer.

    Source: Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018, section 3.1.
    """
    check_count("stages", stages)
    levels = list(_cascade(model, stages, seed))
    shares = torch.tensor([share for share, _ in levels], dtype=torch.float64)
    curves = []
    for batch, intact in each_map(model, explainer, images, target, encode, batch_size, progress):
        columns = [
            similarity(intact, attribute(explainer, shuffled, batch.x, batch.target), kind) for _, shuffled in levels
        ]
        curves.append(torch.stack(columns, 1).cpu())
    joined = torch.cat(curves)
    return MetricResult(scores=joined[:, -1], higher_is_better=False, curves=joined, curve_x=shares)


def _cascade(model: nn.Module, stages: int, seed: int) -> Iterator[tuple[float, nn.Module]]:
    """Share of modules shuffled and the network, a copy for each stage."""
    names = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    if not names:
        raise BcosError("the network has no parameters that could be shuffled")
    names.reverse()  # networks hold their modules in the order of execution
    stages = min(stages, len(names))
    for stage in range(1, stages + 1):
        count = round(stage * len(names) / stages)
        shuffled = full_copy(model)
        for name in names[:count]:
            shuffle_parameters(shuffled.get_submodule(name), f"{seed}/{name}")
        yield count / len(names), shuffled


@torch.no_grad()
def shuffle_parameters(module: nn.Module, key: str) -> None:
    """Shuffle the entries of each of the module's own parameters, as a function of the key."""
    for name, parameter in module.named_parameters(recurse=False):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{key}/{name}".encode()))
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
