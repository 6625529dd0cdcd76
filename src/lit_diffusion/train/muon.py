"""Muon for the hidden matrices, AdamW for every other parameter."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lit_diffusion.common.errors import ConfigError, check_number

HIDDEN = 16  # features; fewer on either side are an image's channels, a table of labels, a depthwise kernel
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan's quintic


class Muon(torch.optim.Optimizer):
    """Orthogonalizes the momentum of hidden matrices (Jordan et al. 2024, "Muon"); AdamW for the rest.

    A convolution's kernel (out, in, k, k) is the matrix (out, in k k). The first and the last layer,
    embeddings of few labels, biases and norms are AdamW's. Updates of matrices have the root mean
    square of AdamW's, 0.2 (Liu et al. 2025, "Muon is scalable for LLM training", equation 4), so that one
    learning rate and one weight decay serve both.

    Args:
        params: of the network.
        lr: learning rate.
        momentum: of the matrices, in [0, 1); Nesterov's.
        betas, eps: of AdamW.
        weight_decay: decoupled, as in AdamW.

    Raises:
        ConfigError: a momentum outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-3,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        check_number("optimizer.lr", lr, least=0, most=1000)
        if not 0 <= momentum < 1:
            raise ConfigError(f"optimizer.momentum is {momentum:g}: choose a value in [0, 1)")
        params = list(params)
        hidden = [p for p in params if is_hidden(p)]
        rest = [p for p in params if not is_hidden(p)]
        groups = [{"params": hidden, "momentum": momentum}, {"params": rest, "betas": betas, "eps": eps}]
        # fused: a restored state keeps its steps in float32, as the kernel needs them
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; return what the closure, which is called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        hidden, rest = self.param_groups
        self._step_matrices(**hidden)
        self._step_adamw(**rest)
        return loss

    def _step_matrices(
        self, params: list[Tensor], lr: float, momentum: float, weight_decay: float, **_: Any
    ) -> None:
        by_shape = defaultdict(list)  # those of one shape are one batch of matrices
        for p in params:
            if p.grad is not None:
                by_shape[p.shape].append(p)
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
        for same in by_shape.values():
            momenta = [self.state[p]["momentum"] for p in same]
            grads = [p.grad for p in same if p.grad is not None]
            torch._foreach_lerp_(momenta, grads, 1 - momentum)
            ahead = torch.stack(torch._foreach_lerp(grads, momenta, momentum))
            matrices = ahead.flatten(2)
            updates = orthogonalized(matrices).reshape(ahead.shape)
            scale = 0.2 * math.sqrt(max(matrices.shape[1:]))
            torch._foreach_mul_(same, 1 - lr * weight_decay)
            torch._foreach_add_(same, list(updates.unbind()), alpha=-lr * scale)

    def _step_adamw(
        self,
        params: list[Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        params = [p for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in params]
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )


def is_hidden(p: Tensor) -> bool:
    """Return whether a parameter is a matrix, or a convolution's kernel, from features to features."""
    return p.ndim >= 2 and min(p.shape[:2]) >= HIDDEN


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return matrices near the nearest semi-orthogonal ones, by Jordan's Newton-Schulz steps.

    A step is x <- p(x x^T) x with the polynomial p(g) = a + b g + c g^2. All of its factors commute, so
    that they are multiplied up as small square matrices, and x enters at the start and at the end alone.

    Args:
        matrices: (N, R, C).
        steps: five bring the singular values to between 0.7 and 1.2, roughly.

    Returns:
        (N, R, C).
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)

    def p(gram: Tensor) -> Tensor:
        return a * identity + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)

    gram = x @ x.mT
    factor = product = p(gram)
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = p(gram)
        product = factor @ product
    x = product @ x
    return x if wide else x.mT
