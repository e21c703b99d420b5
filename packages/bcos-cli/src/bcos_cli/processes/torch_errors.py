"""Failures that libraries report in words of their own, in one line of ours. Imports no torch."""

from bcos_core.errors import BcosError


def dead_loader(reason: RuntimeError) -> BcosError | None:
    """Say that a loader process has died, if that is what torch reports, in whatever place it was noticed."""
    text = " ".join(str(reason).split())
    if "DataLoader worker" not in text:
        return None
    return BcosError(
        f"a loader process has died ({text}); if memory was short, use fewer data.workers or a smaller "
        "data.shuffle_buffer"
    )
