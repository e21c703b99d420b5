"""Explaining with any explainer: several targets, in batches that fit into memory."""

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.targets import with_indices
from bcos_explain.explainers.contract import Explainer, Target, check_number, without_rounding
from bcos_explain.explainers.memory import in_batches
from bcos_explain.explainers.remarks import Remark, collect_remarks, pass_on, remark


def attribute(
    explainer: Explainer, model: nn.Module, x: Tensor, target: Target = None, *, batch_size: int | None = None
) -> Tensor:
    """Maps of any explainer: channels summed, several targets, memory bounded.

    Remarks about the maps are passed on to :func:`bcos_explain.explainers.collect_remarks`, numbered by the
    images and targets of this call; where nobody collects them, they are warnings.

    Args:
        explainer: any; one that takes several targets is called once for all of them, another one for each.
        model: in eval mode.
        x: (N, C, H, W).
        target: None, a class, (N,) or (N, T) classes, by index, or by name where the model has ``class_names``.
        batch_size: images explained at once; None for all. Where memory runs out it is halved, and the halved
            size kept for the rest.

    Returns:
        (N, [T,] H, W), on the device of x; T is there where `target` is (N, T).

    Raises:
        BcosError: as the explainer, one that returns another shape, or memory that is not enough for a single
            image.
    """
    target = with_indices(model, target)
    check_number(target, len(x))

    def work(part: slice) -> tuple[Tensor, list[Remark]]:
        chosen = target[part] if isinstance(target, Tensor) and target.ndim else target
        with collect_remarks() as remarks:  # of a part that memory is enough for
            return _maps(explainer, model, x[part], chosen), remarks

    parts: list[Tensor] = []
    for maps, remarks in in_batches(work, len(x), batch_size):
        pass_on(remarks, first_image=sum(map(len, parts)))
        parts.append(maps)
    return torch.cat(parts)


def _maps(explainer: Explainer, model: nn.Module, x: Tensor, target: Target) -> Tensor:
    several = isinstance(target, Tensor) and target.ndim == 2
    if several and not getattr(explainer, "several_targets", False):
        assert isinstance(target, Tensor)
        columns = []
        for t, column in enumerate(target.unbind(1)):
            with collect_remarks() as remarks:
                columns.append(_maps(explainer, model, x, column))
            pass_on(remarks, target=t)
        return torch.stack(columns, 1)
    attribution = explainer(model, x, target)
    if not isinstance(attribution, Tensor):
        raise BcosError(f"the explainer gave {type(attribution).__name__}, needed a tensor (N, [C,] H, W)")
    expected = (*(target.shape if several else x.shape[:1]), *x.shape[2:])  # type: ignore[union-attr] # reason: several says it is a tensor
    tells_channels = attribution.ndim == len(expected) + 1
    maps = attribution.sum(-3) if tells_channels else attribution
    if maps.shape != expected:
        raise BcosError(
            f"the explainer gave maps of shape {tuple(maps.shape)} for inputs of shape {tuple(x.shape)}, "
            f"needed {tuple(expected)}"
        )
    finite = torch.isfinite(maps).flatten(-2).all(-1)
    if not bool(finite.all()):
        remark("the map holds values that are not finite (NaN or infinity)", ~finite)
    return without_rounding(maps, attribution.abs().sum(-3) if tells_channels else maps.abs())
