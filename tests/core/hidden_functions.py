"""Custom functions whose inside explanation mode does not see."""

import torch


class Held(torch.autograd.Function):
    """A whole B-cos layer in a function of its own, with its plain derivative, not that of the held network."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.save_for_backward(x)
        ctx.layer = layer
        return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(ctx.layer(x), x, gradient)[0], None


class Added(torch.autograd.Function):
    """x plus a constant that nothing measures."""

    @staticmethod
    def forward(_ctx, x, constant):
        return x + constant

    @staticmethod
    def backward(_ctx, g):
        return g, None
