"""Forward and backward pass of an explanation as one graph, without autograd."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from bcos_core import explanation_mode
from bcos_core.additive_terms import AdditiveTerms, collect
from bcos_core.targets import select
from bcos_explain.export.adjoints import ADJOINTS

OUTPUTS = ("logits", "target", "weight", "map", "bias")
"""What a graph returns, in this order."""


class ExplainerGraph(nn.Module):
    """A traced explanation: image in, :data:`OUTPUTS` out. Nothing in it records a gradient.

    Args:
        graph: called with the tensors, then the image.
        tensors: of the network, by name; each is stored once, and those that the graph does not use are not.
    """

    def __init__(self, graph: fx.GraphModule, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.traced = _with_buffers(graph)
        *held, _image = [node for node in graph.graph.nodes if node.op == "placeholder"]
        used = {name: node for name, node in zip(tensors, held, strict=True) if node.users}
        for node in set(held) - set(used.values()):
            graph.graph.erase_node(node)
        graph.recompile()
        for name in used:
            _store(self, name, tensors[name].detach())
        self._names = list(used)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Explain a batch of images."""
        held = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        results = self.traced(*(held[name] for name in self._names), image)
        return dict(zip(OUTPUTS, results, strict=True))


def _with_buffers(graph: fx.GraphModule) -> fx.GraphModule:
    """Make buffers of the constants that a tracer leaves as plain attributes."""
    for name, value in [*vars(graph).items()]:
        if isinstance(value, Tensor):
            delattr(graph, name)
            graph.register_buffer(name, value.detach())
    return graph


def _store(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` a parameter of `root` (or a buffer, if it holds no floats) under a dotted name."""
    *path, last = name.split(".")
    owner = root
    for part in path:
        if part not in dict(owner.named_children()):
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if tensor.is_floating_point():
        owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    else:
        owner.register_buffer(last, tensor)


class _TracedExplanation(nn.Module):
    """Encode, explain the largest output, and read the map off, in operations that a tracer records.

    The same as :func:`bcos_core.explain`, but without looking at values: its checks are made before.
    """

    def __init__(self, model: nn.Module, encode: nn.Module | None, samples_first: bool) -> None:
        super().__init__()
        self.model = model
        self.encode = nn.Identity() if encode is None else encode
        self._samples_first = samples_first

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            x = self.encode(image)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # whose backward pass is made of plain products
            leaf = x.detach().clone().requires_grad_()
            terms = AdditiveTerms(self.model)
            with explanation_mode(self.model):
                x_copy = leaf.clone()  # the model may change it in place
                with collect(terms):
                    logits, scores, target = select(self.model(x_copy), None, False, self.model, n=x.shape[0])
            derivatives = _by_sample if self._samples_first else _by_direction
            weight, bias = derivatives(leaf, terms.leaves, scores.squeeze(1))
        contributions = weight.detach() * x
        summed = contributions.sum(1) if x.ndim > 2 else contributions
        return logits.detach(), target, weight.detach(), summed, bias.detach()


def _by_sample(leaf: Tensor, constants: list[Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
    """W and ``b = Σ ∂f/∂c·c`` (N,) from one backward pass; samples are the first dimension of every constant."""
    weight, *gradients = torch.autograd.grad(scores.sum(), [leaf, *constants], allow_unused=True)
    bias = torch.zeros_like(scores)
    for constant, gradient in zip(constants, gradients, strict=True):
        if gradient is not None:
            bias = bias + (gradient * _finite(constant)).reshape(scores.shape[0], -1).sum(1)
    return weight, bias


def _by_direction(leaf: Tensor, constants: list[Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
    """W, and b as the derivative of the scores in the direction of the constants, whatever their layout.

    ``Σ ∂(v·f)/∂c·c`` is ``v·b`` for any v, so b is its gradient by v: a second backward pass.
    """
    v = torch.ones_like(scores).requires_grad_()
    weight, *gradients = torch.autograd.grad(
        (v * scores).sum(), [leaf, *constants], allow_unused=True, create_graph=True
    )
    products = [(g * _finite(c)).sum() for c, g in zip(constants, gradients, strict=True) if g is not None]
    if not products:
        return weight, torch.zeros_like(scores)
    return weight, torch.autograd.grad(torch.stack(products).sum(), v)[0]


def _finite(constant: Tensor) -> Tensor:
    """The constant, with 0 for the infinities of masks and padding, through which nothing reaches an output."""
    return torch.where(constant.detach().isfinite(), constant.detach(), 0)


def trace(
    model: nn.Module, encode: nn.Module | None, image: Tensor, *, dynamic_batch: bool, samples_first: bool = True
) -> ExplainerGraph:
    """Record the explanation of `image` (N, ...).

    Tensors that only stand for their shape run through the network, with the batch size as a symbol; where a
    rule of explanation mode asks for a value (is this constant zero?), it gets the one of `image`.

    Args:
        image: (N, ...), N at least 2 where the batch is dynamic.
        dynamic_batch: whether the graph is for any number of images, or for N.
        samples_first: samples are the first dimension of what the network adds; False costs a second backward pass.
    """
    explained = _TracedExplanation(model, encode, samples_first)
    state = {**dict(explained.named_parameters()), **dict(explained.named_buffers())}

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        *tensors, image = given
        results: tuple[Tensor, ...] = functional_call(explained, dict(zip(state, tensors, strict=True)), (image,))
        return results

    def run_copying(*given: Tensor) -> tuple[Tensor, ...]:
        with allow_mutation_on_saved_tensors():
            return run(*given)

    try:
        graph = _recorded(run, list(state.values()), image, dynamic_batch)
    except RuntimeError as reason:
        if "modified by an inplace operation" not in str(reason):
            raise
        graph = _recorded(run_copying, list(state.values()), image, dynamic_batch)
    return ExplainerGraph(graph, state)


def _recorded(
    run: Callable[..., tuple[Tensor, ...]], tensors: list[Tensor], image: Tensor, dynamic_batch: bool
) -> fx.GraphModule:
    with functorch_config.patch(fake_tensor_propagate_real_tensors=True):
        fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    kinds = [DimDynamic.STATIC] * image.ndim
    if dynamic_batch:
        kinds[0] = DimDynamic.DYNAMIC
    symbolic = fake.from_tensor(image, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))
    stand_ins = [fake.from_tensor(t.detach(), static_shapes=True) for t in tensors]
    with (
        fake,
        enable_python_dispatcher(),
        errors_only("torch.fx.experimental.symbolic_shapes"),
        warnings.catch_warnings(),
    ):
        # rules compare addresses; tensors without values have none, and count as overlapping
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        graph = make_fx(run, decomposition_table=ADJOINTS, _allow_non_fake_inputs=True)(*stand_ins, symbolic)
    graph.graph.eliminate_dead_code()
    return graph


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Inside the block the loggers of these names report errors alone."""
    logs = [logging.getLogger(name) for name in names]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
