"""The twelve norms by name, for models and recipes that choose one."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import nn

from bcos_core.errors import BcosError
from bcos_core.norms import batch, group
from bcos_core.plugins import suggestion

Affine = Literal["affine", "linear", "plain"]
"""Weight and bias, weight only, neither."""

NORM_EPS = 1e-5
"""Added to the variance."""
GROUPS = 2
"""Groups of ``group`` and ``group_uncentered``, as in the paper's ablation (table 3)."""

_NORMS: dict[str, Callable[..., nn.Module]] = {
    "all": batch.AllNorm2d,
    "batch": batch.BatchNorm2d,
    "group": partial(group.GroupNorm2d, GROUPS),
    "instance": group.InstanceNorm2d,
    "layer": group.LayerNorm2d,
    "position": group.PositionNorm2d,
    "all_uncentered": batch.AllNormUncentered2d,
    "batch_uncentered": batch.BatchNormUncentered2d,
    "group_uncentered": partial(group.GroupNormUncentered2d, GROUPS),
    "instance_uncentered": group.InstanceNormUncentered2d,
    "layer_uncentered": group.LayerNormUncentered2d,
    "position_uncentered": group.PositionNormUncentered2d,
}


def norm_names() -> list[str]:
    """Names that :func:`make_norm` takes, besides ``"none"``."""
    return list(_NORMS)


def make_norm(name: str, num_channels: int, *, affine: Affine = "linear", eps: float = NORM_EPS) -> nn.Module:
    """Build the norm called `name` for `num_channels` channels; ``"none"`` gives the identity.

    Raises:
        BcosError: no such norm or no such kind of parameters.
    """
    if affine not in get_args(Affine):
        raise BcosError(f"affine must be one of {get_args(Affine)}, got {affine!r}")
    if name == "none":
        return nn.Identity()
    if name not in _NORMS:
        raise BcosError(f"there is no norm {name!r}; {suggestion(name, ['none', *_NORMS])}")
    return _NORMS[name](num_channels, eps=eps, affine=affine != "plain", bias=affine == "affine")
