"""The blocks that a network repeats, each of which can be compiled or checkpointed alone."""

from collections import Counter

from torch import nn

from bcos_core.errors import BcosError


def repeated_blocks(model: nn.Module, needed_by: str) -> list[nn.Module]:
    """Return the outermost blocks that a network repeats: members of a list or sequence whose class occurs again.

    Layers without layers of their own do not count as blocks.

    Raises:
        BcosError: there are none.
    """
    members = [
        child
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        for child in module.children()
        if any(True for _ in child.children()) and not isinstance(child, nn.Sequential | nn.ModuleList)
    ]
    kinds = Counter(type(block) for block in members)
    blocks = [block for block in members if kinds[type(block)] > 1]
    inner = {id(module) for block in blocks for module in block.modules() if module is not block}
    if not blocks:
        raise BcosError(f"{needed_by} needs a network with repeated blocks, found none; leave it out")
    return [block for block in dict.fromkeys(blocks) if id(block) not in inner]
