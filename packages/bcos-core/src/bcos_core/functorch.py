"""What torch.func does around a call: transforms of a model's own forward pass."""

from torch._C._functorch import TransformType, peek_interpreter_stack
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters


def is_transformed() -> bool:
    """Whether a transform of torch.func is running, such as vmap."""
    return peek_interpreter_stack() is not None


def is_differentiating() -> bool:
    """Whether torch.func is taking a derivative, whatever stands between."""
    if not is_transformed():
        return False
    derivatives = (TransformType.Grad, TransformType.Jvp)
    return any(interpreter.key() in derivatives for interpreter in retrieve_all_functorch_interpreters())
