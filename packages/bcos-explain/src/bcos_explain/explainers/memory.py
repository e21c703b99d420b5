"""Batches that fit into memory."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from bcos_core import BcosError

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


def in_batches(work: Callable[[slice], Result], count: int, batch_size: int | None = None) -> Iterator[Result]:
    """Results of `work` on successive slices of `count` images.

    Args:
        batch_size: images at once; None for all. Where memory runs out it is halved, and the halved size kept
            for the rest.

    Raises:
        BcosError: a size below 1, or memory that is not enough for a single image.
    """
    if count < 1:
        raise BcosError("there are no images to explain")
    size = count if batch_size is None else batch_size
    if size < 1:
        raise BcosError(f"batch_size must be at least 1, got {size}")
    start = 0
    while start < count:
        part = slice(start, min(start + size, count))
        try:
            result = work(part)
        except RuntimeError as reason:
            if not is_out_of_memory(reason):
                raise
            size = (part.stop - start) // 2
            if size == 0:
                raise BcosError(
                    "out of memory with a single image; use smaller images, or a method that needs less"
                ) from reason
            _log.warning("out of memory: explaining %d images at a time from here on", size)
        else:
            start = part.stop
            yield result
            continue
        _free_cache()  # outside of the handler, which would hold on to the tensors of the failed call


def fit_in_memory(work: Callable[[int], Result], size: int, *, least: int = 1) -> Result:
    """Result of `work` with `size` images at once; where memory runs out it starts again with half as many.

    For methods that pass many variants of each image through the network.

    Raises:
        RuntimeError: memory is not enough for `least` images at once, one variant of each.
    """
    size = max(size, least)
    while True:
        try:
            return work(size)
        except RuntimeError as reason:
            if size == least or not is_out_of_memory(reason):
                raise
            size = max(size // 2, least)
            _log.warning("out of memory: passing %d images at a time", size)
        _free_cache()


def is_out_of_memory(reason: BaseException) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the CPU."""
    return isinstance(reason, torch.OutOfMemoryError) or "not enough memory" in str(reason)


def _free_cache() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
