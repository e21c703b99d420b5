"""Whether a compiled network has the gradients of the network as it was written: a compiler can be wrong."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bcos_cli.train.forward_pass import BufferSnapshot, as_written
from bcos_models.weights import some_of

_WORSE = 3.0
"""Times the eager network's own error of rounding that a compiled one may have."""
_ROUNDING = 0.1
"""Share of a gradient that rounding may change beside that: networks amplify it."""


def wrong_when_compiled(model: nn.Module, network: nn.Module, x: Tensor, accelerator: Accelerator) -> str | None:
    """Compare a training pass of the compiled network with one of the network as it was written.

    Nothing changes: no weight, gradient, running statistic or random number.

    Args:
        model: The network as Accelerate has prepared it, compiled.
        network: The one inside.
        x: A batch as in training, which the network is compiled for.
        accelerator: Whose precision both passes are in. Mixed precision is measured against full precision: a
            gradient may be :data:`_WORSE` times as far from it as the eager one, and a tenth of its size further.

    Returns:
        What is wrong, or None. Of a network that draws random numbers only what is not finite counts, and a comparison
        that a device has no memory for finds nothing.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    mixed = accelerator.mixed_precision != "no"

    def passed(call: Callable[[Tensor], Tensor], *contexts: AbstractContextManager[object]) -> list[Tensor]:
        with ExitStack() as entered:
            for context in contexts:
                entered.enter_context(context)
            output = call(x).float()
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        gradients = torch.autograd.grad((output * noise).sum(), parameters, allow_unused=True)
        return [output.detach(), *(torch.zeros(()) if g is None else g.float() for g in gradients)]

    with _nothing_changes(network, x.device) as draws:
        try:
            exact = passed(network, as_written(network))
            eager = passed(network, as_written(network), accelerator.autocast()) if mixed else exact
        except torch.OutOfMemoryError:
            return None
        is_random = draws()
        compiled = passed(model, accelerator.no_sync(model), accelerator.autocast())
    wrong = []
    for name, full, lower, found in zip(["the logits", *(n for n, _ in named)], exact, eager, compiled, strict=True):
        if not bool(found.isfinite().all()) and bool(lower.isfinite().all()):
            wrong.append(f"{name} (not finite)")
        elif not is_random and full.ndim > 1 and bool(full.isfinite().all()) and bool(lower.isfinite().all()):
            size, error = float(full.norm()), float((found - full).norm())
            if error > _WORSE * float((lower - full).norm()) + _ROUNDING * size:
                wrong.append(f"{name} (differs by {error / size:.0%})" if size else f"{name} (is 0 there)")
    return some_of(wrong) if wrong else None


@contextmanager
def _nothing_changes(network: nn.Module, device: torch.device) -> Iterator[Callable[[], bool]]:
    """Put back running statistics and random numbers; inside, say whether any were drawn."""
    before = BufferSnapshot(network)
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices, device_type=kind):
        states = _random_states(device)
        try:
            yield lambda: any(not torch.equal(a, b) for a, b in zip(states, _random_states(device), strict=True))
        finally:
            before.restore()


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.random.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states
