"""Functions that need no rule: linear in their tensor, or selecting elements of it."""

import torch
from torch import Tensor

from bcos_core.errors import BcosError
from bcos_core.rules.table import LINEAR, SELECTING, Function, functions, rule

_SHAPES = """
    view view_as reshape reshape_as flatten ravel unflatten squeeze unsqueeze permute transpose t T mT H mH adjoint
    swapaxes swapdims movedim moveaxis expand expand_as broadcast_to repeat repeat_interleave tile contiguous clone
    atleast_1d atleast_2d atleast_3d chunk split split_with_sizes tensor_split hsplit vsplit dsplit unsafe_chunk
    unsafe_split unbind select narrow diagonal diag diag_embed diagflat tril triu roll rot90 flip fliplr flipud
    as_strided unfold fold index_select gather take take_along_dim masked_select __getitem__ data
    squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ requires_grad_ retain_grad meshgrid cartesian_prod
    detach
""".split()
_TYPES = """
    to type type_as float double half bfloat16 cpu cuda real imag view_as_real view_as_complex resolve_conj
    resolve_neg conj conj_physical
""".split()
_SUMS = "sum mean cumsum trace neg negative positive __neg__ __pos__ neg_ negative_ nansum nanmean".split()
_IMAGES = """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle interpolate upsample upsample_nearest upsample_bilinear
    max_unpool1d max_unpool2d max_unpool3d
""".split()
_FOURIER = "fft ifft fft2 ifft2 fftn ifftn rfft irfft rfft2 irfft2 rfftn irfftn fftshift ifftshift".split()
_SELECTIONS = """
    amax amin topk sort msort median kthvalue mode cummax cummin relu relu_ leaky_relu leaky_relu_ abs abs_ absolute
    hardshrink rrelu aminmax max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
""".split()

LINEAR.update(f for name in (*_SHAPES, *_TYPES, *_SUMS, *_IMAGES, *_FOURIER) for f in functions(name))
SELECTING.update(f for name in _SELECTIONS for f in functions(name))
LINEAR.update((*functions("grad"), torch.Tensor.backward, torch.autograd.grad, torch.autograd.backward))


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def dropout(_func: Function, input: Tensor, p: float = 0.5, training: bool = True, *_: bool, **named: bool) -> Tensor:
    """Nothing is dropped; in train mode, where something would be, it is refused."""
    if named.get("train", training) and p > 0:
        raise BcosError(f"cannot explain: the model drops activations at random (p={p:g}); call model.eval() first")
    return input
