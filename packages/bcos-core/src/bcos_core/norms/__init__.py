"""The norms of B-cos networks: {All, Batch, Group, Instance, Layer, Position} × {centred, uncentred}.

All take (N, C, *spatial). An uncentred norm divides by the standard deviation but does not subtract the mean,

``y = x / sqrt(var(x) + eps) · weight + bias``,

which keeps the layer free of an additive term (Böhle et al., TPAMI 2024, section 3.3 and table 3). Each comes
affine (weight and bias), linear (weight only, the default here) or plain (neither). In explanation mode the
variance is a constant, the mean is not.
"""

from bcos_core.norms.batch import (
    AllNorm2d,
    AllNormUncentered2d,
    BatchNorm2d,
    BatchNormUncentered2d,
    uses_batch_statistics,
)
from bcos_core.norms.factory import Affine, make_norm, norm_names
from bcos_core.norms.group import (
    GroupNorm2d,
    GroupNormUncentered2d,
    InstanceNorm2d,
    InstanceNormUncentered2d,
    LayerNorm,
    LayerNorm2d,
    LayerNormUncentered,
    LayerNormUncentered2d,
    PositionNorm2d,
    PositionNormUncentered2d,
)

__all__ = [
    "Affine",
    "AllNorm2d",
    "AllNormUncentered2d",
    "BatchNorm2d",
    "BatchNormUncentered2d",
    "GroupNorm2d",
    "GroupNormUncentered2d",
    "InstanceNorm2d",
    "InstanceNormUncentered2d",
    "LayerNorm",
    "LayerNorm2d",
    "LayerNormUncentered",
    "LayerNormUncentered2d",
    "PositionNorm2d",
    "PositionNormUncentered2d",
    "make_norm",
    "norm_names",
    "uses_batch_statistics",
]
