"""Failures that torch reports at length, in one line. Imports no torch."""

from bcos_core.errors import BcosError


def dead_loader(reason: RuntimeError) -> BcosError | None:
    """Return the error of a dead loader process, if that is what torch reports, wherever it was noticed."""
    text = " ".join(str(reason).split())
    if "DataLoader worker" not in text:
        return None
    return BcosError(
        f"a loader process has died ({text}); if memory was short, use fewer data.workers or a smaller "
        "data.shuffle_buffer"
    )
