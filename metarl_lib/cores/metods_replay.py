"""MetODS through time with little memory: most of the weights are rebuilt, not kept.

Autograd keeps each W_t, N² numbers for every row and step. The write is linear in W, though:

    W_t = c_S W_{t-1} + α ⊙ Σ_l d_{S,l} v^l ⊗ p(v^l),

so that the activities v^l, N numbers each, suffice to rebuild the weights from any earlier
ones, without a nonlinearity, and without reading them. `Replay` keeps the activities of all T
steps and every √T-th W. Going backwards it rebuilds the weights of one stretch of √T steps at a
time, and applies the derivative of a step by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl_lib.cores.base import begin, some_reset


class Shared(NamedTuple):
    """What all rows and steps share: κ `[S, S + 1]`, the tables c and d, α, and p's parameters.

    `weights` is empty where p is the identity, `(L,)` where p(v) = L v, and `(A, a, B, b)`
    where p(v) = B tanh(A v + a) + b.
    """

    kappa: Tensor
    c: Tensor
    d: Tensor
    alpha: Tensor
    weights: tuple[Tensor, ...]


class Trace(NamedTuple):
    """The activities of a step: v^0 … v^{S-1} and the reads tanh(W^{s-1} v^{s-1}), `[S, B, N]`."""

    v: Tensor
    read: Tensor


def project(v: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """p(v), `[…, N]`."""
    if not weights:
        return v
    if len(weights) == 1:
        return v @ weights[0].T
    a_matrix, a, b_matrix, b = weights
    return torch.tanh(v @ a_matrix.T + a) @ b_matrix.T + b


def project_backward(v: Tensor, g: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """The gradient by v, from that by p(v), `[…, N]` each."""
    if not weights:
        return g
    if len(weights) == 1:
        return g @ weights[0]
    a_matrix, a, b_matrix, _ = weights
    hidden = torch.tanh(v @ a_matrix.T + a)
    return (g @ b_matrix * (1 - hidden**2)) @ a_matrix


def weights_backward(v: Tensor, g: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradients by p's parameters, summed over rows; `v` and `g` are `[R, N]`."""
    if not weights:
        return ()
    if len(weights) == 1:
        return (g.T @ v,)
    a_matrix, a, b_matrix, _ = weights
    hidden = torch.tanh(v @ a_matrix.T + a)
    inner = g @ b_matrix * (1 - hidden**2)
    return inner.T @ v, inner.sum(0), g.T @ hidden, g.sum(0)


def spread(x: Tensor, alpha: Tensor, *, transposed: bool = False) -> Tensor:
    """α x for each row of x `[…, N]`, or αᵀ x; a scalar stands for a matrix of equal numbers."""
    if alpha.ndim:
        return x @ (alpha if transposed else alpha.T)
    return (alpha * x.sum(-1, keepdim=True)).expand_as(x)


def forward_step(v: Tensor, w: Tensor, shared: Shared) -> tuple[Tensor, Tensor, Trace]:
    """v^S `[B, N]`, W_t `[B, N, N]`, and the activities on the way, without the inner weights.

    β are scalars and a write is linear in α, so W^s is c_s W⁰ plus writes weighted by d_s. With
    (α ⊙ a ⊗ b) u = a ⊙ (α (b ⊙ u)) it can be read without being formed: α is shared by all
    rows, so that this is a matrix product. W is read S times and written once.
    """
    kappa, c, d, alpha, weights = shared
    vs: list[Tensor] = [v]
    ps: list[Tensor] = []
    reads: list[Tensor] = []
    for s in range(1, len(kappa) + 1):
        u = vs[-1]
        read = c[s - 1] * torch.bmm(w, u[:, :, None])[:, :, 0]
        if s > 1:
            a, p = torch.stack(vs[:-1]), torch.stack(ps)
            read = read + weighted(d[s - 1, : s - 1], a * spread(p * u, alpha))
        ps.append(project(u, weights))
        reads.append(torch.tanh(read))
        vs.append(weighted(kappa[s - 1, : s + 1], torch.stack([*vs, reads[-1]])))
    trace = Trace(torch.stack(vs[:-1]), torch.stack(reads))
    return vs[-1], advance(w, outer_sum(trace.v, torch.stack(ps), shared), shared), trace


def weighted(scalars: Tensor, x: Tensor) -> Tensor:
    """Σ_l scalars_l x_l, `[B, N]`."""
    return torch.tensordot(scalars, x, 1)


def outer_sum(v: Tensor, p: Tensor, shared: Shared) -> Tensor:
    """Σ_l d_{S,l} v^l ⊗ p^l, `[B, N, N]`."""
    d = shared.d[-1][:, None, None]
    return torch.bmm((d * v).permute(1, 2, 0), p.transpose(0, 1))


def written(v: Tensor, shared: Shared) -> tuple[Tensor, Tensor]:
    """Σ_l d_{S,l} v^l ⊗ p(v^l), `[B, N, N]`, and all p(v^l), `[S, B, N]`."""
    p = project(v, shared.weights)
    return outer_sum(v, p, shared), p


def advance(w: Tensor, outer: Tensor, shared: Shared) -> Tensor:
    """W after a step, `[B, N, N]`, as is `outer`."""
    return torch.addcmul(shared.c[-1] * w, shared.alpha, outer)


class Gradients:
    """Sums of gradients over rows and steps."""

    def __init__(self, shared: Shared) -> None:
        self.kappa, self.c, self.d, self.alpha = (torch.zeros_like(x) for x in shared[:4])
        self.weights = [torch.zeros_like(x) for x in shared.weights]


def backward_step(
    g_v: Tensor, g_w: Tensor, w: Tensor, outer: Tensor, p: Tensor, trace: Trace,
    shared: Shared, sums: Gradients,
) -> Tensor:  # fmt: skip
    """The derivative of one step.

    Args:
        g_v: gradient by v^S, `[B, N]`.
        g_w: gradient by W_t, `[B, N, N]`; becomes that by W_{t-1}.
        w: W_{t-1}.
        outer: Σ_l d_{S,l} v^l ⊗ p(v^l).
        p: p(v^l), `[S, B, N]`.
        trace: the step's activities.
        shared: parameters.
        sums: to which the gradients of the parameters are added.

    Returns:
        The gradient by v^0, `[B, N]`.
    """
    kappa, c, d, alpha, weights = shared
    v, read = trace
    depth = len(kappa)
    # the write: W_t = c_S W_{t-1} + α ⊙ outer
    sums.c[depth] += torch.dot(g_w.flatten(), w.flatten())
    if alpha.ndim:
        sums.alpha += torch.einsum("bij,bij->ij", g_w, outer)
    else:
        sums.alpha += torch.dot(g_w.flatten(), outer.flatten())
    g_outer = alpha * g_w
    by_v = torch.bmm(g_outer, p.permute(1, 2, 0)).permute(2, 0, 1)
    by_p = torch.bmm(v.transpose(0, 1), g_outer).transpose(0, 1)
    sums.d[depth] += (v * by_v).sum((1, 2))
    last = d[depth][:, None, None]
    g_vs, g_ps = list((last * by_v).unbind()), list((last * by_p).unbind())
    g_reads: list[Tensor] = []
    for s in range(depth, 0, -1):
        u, y = v[s - 1], read[s - 1]
        # v^s = Σ_{l<s} κ_l v^l + κ_s tanh(read)
        sums.kappa[s - 1, :s] += (v[:s] * g_v).sum((1, 2))
        sums.kappa[s - 1, s] += (y * g_v).sum()
        for k in range(s):
            g_vs[k] = g_vs[k] + kappa[s - 1, k] * g_v
        g_read = kappa[s - 1, s] * g_v * (1 - y * y)
        # read = c W u + Σ_{l<s-1} d_l v^l ⊙ α (p^l ⊙ u)
        back = torch.bmm(g_read[:, None, :], w)[:, 0]
        sums.c[s - 1] += (back * u).sum()
        g_u = c[s - 1] * back
        g_reads.append(c[s - 1] * g_read)
        if s > 1:
            a, b, weight = v[: s - 1], p[: s - 1], d[s - 1, : s - 1, None, None]
            seen = b * u
            passed = spread(seen, alpha)
            each = g_read * passed
            sums.d[s - 1, : s - 1] += (a * each).sum((1, 2))
            g_spread = weight * (g_read * a)
            g_seen = spread(g_spread, alpha, transposed=True)
            if alpha.ndim:
                sums.alpha += g_spread.flatten(0, 1).T @ seen.flatten(0, 1)
            else:
                sums.alpha += (g_spread.sum(-1) * seen.sum(-1)).sum()
            g_u = g_u + (g_seen * b).sum(0)
            more_v, more_p = weight * each, g_seen * u
            for k in range(s - 1):
                g_vs[k] = g_vs[k] + more_v[k]
                g_ps[k] = g_ps[k] + more_p[k]
        g_v = g_vs[s - 1] + g_u + project_backward(u, g_ps[s - 1], weights)
    if weights:
        found = weights_backward(v.flatten(0, 1), torch.cat(g_ps), weights)
        for total, more in zip(sums.weights, found, strict=True):
            total += more
    g_reads.reverse()
    g_w.mul_(c[depth]).baddbmm_(torch.stack(g_reads, 2), v.transpose(0, 1))
    return g_v


class Kernels(NamedTuple):
    """The functions that a replay consists of, as they are or compiled."""

    forward_step: Callable[..., Any] = forward_step
    written: Callable[..., Any] = written
    advance: Callable[..., Any] = advance
    backward_step: Callable[..., Any] = backward_step

    def compiled(self) -> Kernels:
        """The same, each passed through `torch.compile`."""
        return Kernels(*map(torch.compile, self))


class Replay(torch.autograd.Function):
    """T steps of the layer, `[T, B, N]` embedded inputs to `[T, B, N]` activities.

    `apply(kernels, v0, w, start, resets, kappa, c, d, alpha, *weights)`, where `resets` is
    `[T, B]` or None, and `start` `[N, N]` the weights of a life's start. Gives the v^S of all
    steps and the last weights.

    Raises:
        RuntimeError: on a second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, v0: Tensor, w: Tensor, start: Tensor, resets: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The activities of all steps, `[T, B, N]`, and the last weights, `[B, N, N]`."""
        kappa, c, d, alpha, *weights = parameters
        shared = Shared(kappa, c, d, alpha, tuple(weights))
        stretch = math.isqrt(max(0, len(v0) - 1)) + 1
        kept, traces, ys = [], [], []
        for t, v in enumerate(v0):
            (w,) = begin(t, resets, (start,), (w,))
            if t % stretch == 0:
                kept.append(w)
            y, w, trace = kernels.forward_step(v, w, shared)
            traces.append(trace)
            ys.append(y)
        activities = (torch.stack(x) for x in zip(*traces, strict=True))
        ctx.kernels, ctx.resets = kernels, resets
        ctx.stretch, ctx.stretches = stretch, len(kept)
        ctx.save_for_backward(*kept, start, *activities, *parameters)
        return torch.stack(ys), w

    @staticmethod
    def backward(ctx: Any, g_ys: Tensor, g_last: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by all arguments of `forward` that are tensors, each of its shape.

        Args:
            ctx: what `forward` left.
            g_ys: the gradient by the activities, `[T, B, N]`.
            g_last: that by the last weights, `[B, N, N]`.

        Raises:
            RuntimeError: on a second derivative.
        """
        if torch.is_grad_enabled():  # with create_graph=True
            raise RuntimeError(
                "a replayed scan can be differentiated once: for second derivatives make the "
                "layer with form='lazy'"
            )
        kernels = ctx.kernels
        kept = list(ctx.saved_tensors[: ctx.stretches])
        start, v, read, kappa, c, d, alpha, *weights = ctx.saved_tensors[ctx.stretches :]
        shared = Shared(kappa, c, d, alpha, tuple(weights))
        sums, g_start = Gradients(shared), torch.zeros_like(start)
        g_w, g_v0 = g_last.clone(), []
        while kept:
            w = kept.pop()
            stretch: list[tuple[Tensor, Tensor, Tensor]] = []
            first = len(kept) * ctx.stretch
            for t in range(first, min(first + ctx.stretch, len(v))):
                if t > first:
                    after = kernels.advance(w, stretch[-1][1], shared)
                    (w,) = begin(t, ctx.resets, (start,), (after,))
                stretch.append((w, *kernels.written(v[t], shared)))
            while stretch:
                t = first + len(stretch) - 1
                w, outer, p = stretch.pop()
                trace = Trace(v[t], read[t])
                back = kernels.backward_step
                g_v0.append(back(g_ys[t], g_w, w, outer, p, trace, shared, sums))
                if ctx.resets is not None and some_reset(ctx.resets[t]):
                    anew = ctx.resets[t][:, None, None]
                    g_start += (g_w * anew).sum(0)
                    g_w.masked_fill_(anew, 0.0)
        g_v0.reverse()
        return (
            None, torch.stack(g_v0), g_w, g_start, None,
            sums.kappa, sums.c, sums.d, sums.alpha, *sums.weights,
        )  # fmt: skip
