"""MetODS through time, compiled by Numba: each row's W stays in the processor's cache.

The equations are those of `metods_replay`, which also says what is kept and what is rebuilt. There
a step is made of operations on all rows, and every one of them passes over all the W. Here a row
goes through all its steps before the next one begins, so that its W, 16 kB where N = 64, never
leaves the cache, and what can be done in one pass over it is done in one. Numba turns these loops
into machine code when they first run, in some seconds, and keeps the result on disk.

For CPUs, and for writes that are linear or the identity.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from metarl_lib.cores.fused import array, compile_loops, share_out
from metarl_lib.cores.metods_replay import Shared


@compile_loops
@no_type_check
def _advance(w, at, v, p, t, b, c, d, alpha, outer):
    """w[at] ← c_S w[at] + α ⊙ Σ_l d_{S,l} v^l ⊗ p^l, with the activities of step t."""
    depth, n = v.shape[2:]
    for i in range(n):
        for j in range(n):
            outer[j] = 0
        for k in range(depth):
            scale = d[depth, k] * v[t, b, k, i]
            for j in range(n):
                outer[j] += scale * p[t, b, k, j]
        for j in range(n):
            w[at, i, j] = c[depth] * w[at, i, j] + alpha[i, j] * outer[j]


@compile_loops
@no_type_check
def _forward(first, last, stretch, v0, w, start, resets, kappa, c, d, alpha, linear,
             kept, v, read, p, ys):  # fmt: skip
    """Rows `first` to `last` through all steps; `w` and the last line's arrays are written to."""
    steps, _, depth, n = v.shape
    one = w.dtype.type(1)
    two = w.dtype.type(2)
    y, outer, seen = np.empty(n, w.dtype), np.empty(n, w.dtype), np.empty((depth, n), w.dtype)
    for b in range(first, last):
        for t in range(steps):
            if resets[t, b]:
                w[b] = start
            if t % stretch == 0:
                kept[t // stretch, b] = w[b]
            for j in range(n):
                v[t, b, 0, j] = v0[t, b, j]
            for s in range(1, depth + 1):
                for k in range(s - 1):
                    for j in range(n):
                        seen[k, j] = p[t, b, k, j] * v[t, b, s - 1, j]
                for i in range(n):
                    total = w.dtype.type(0)
                    for j in range(n):
                        total += w[b, i, j] * v[t, b, s - 1, j]
                    y[i] = c[s - 1] * total
                    for k in range(s - 1):
                        total = w.dtype.type(0)
                        for j in range(n):
                            total += alpha[i, j] * seen[k, j]
                        y[i] += d[s - 1, k] * v[t, b, k, i] * total
                for i in range(n):
                    read[t, b, s - 1, i] = one - two / (math.exp(two * y[i]) + one)
                if len(linear):
                    for i in range(n):
                        total = w.dtype.type(0)
                        for j in range(n):
                            total += linear[i, j] * v[t, b, s - 1, j]
                        p[t, b, s - 1, i] = total
                else:
                    for j in range(n):
                        p[t, b, s - 1, j] = v[t, b, s - 1, j]
                for j in range(n):
                    y[j] = kappa[s - 1, s] * read[t, b, s - 1, j]
                for k in range(s):
                    for j in range(n):
                        y[j] += kappa[s - 1, k] * v[t, b, k, j]
                if s < depth:
                    for j in range(n):
                        v[t, b, s, j] = y[j]
                else:
                    for j in range(n):
                        ys[t, b, j] = y[j]
            _advance(w, b, v, p, t, b, c, d, alpha, outer)


@compile_loops
@no_type_check
def _backward(first, last, stretch, g_ys, resets, start, kappa, c, d, alpha, linear,
              kept, v, read, p, g_w, g_v0, g_p, g_start, g_kappa, g_c, g_d, g_alpha):  # fmt: skip
    """The derivative of `_forward`.

    Written to: `g_w`, the gradient by the last W, becomes that by the first; `g_v0`; `g_p`, that
    by p^l; the gradients of what rows share, from `g_start` on, are added to.
    """
    steps, _, depth, n = v.shape
    zero, one = g_w.dtype.type(0), g_w.dtype.type(1)
    ws = np.empty((stretch, n, n), g_w.dtype)
    g_vs, g_reads = np.empty((depth, n), g_w.dtype), np.empty((depth, n), g_w.dtype)
    g_seen, seen = np.empty((depth, n), g_w.dtype), np.empty((depth, n), g_w.dtype)
    g_v, g_u = np.empty(n, g_w.dtype), np.empty(n, g_w.dtype)
    outer, g_outer = np.empty(n, g_w.dtype), np.empty(n, g_w.dtype)
    for b in range(first, last):
        for number in range(len(kept) - 1, -1, -1):
            begin = number * stretch
            end = min(begin + stretch, steps)
            ws[0] = kept[number, b]
            for t in range(begin + 1, end):
                if resets[t, b]:
                    ws[t - begin] = start
                else:
                    ws[t - begin] = ws[t - begin - 1]
                    _advance(ws, t - begin, v, p, t - 1, b, c, d, alpha, outer)
            for t in range(end - 1, begin - 1, -1):
                at = t - begin
                # the write: W_t = c_S W_{t-1} + α ⊙ Σ_l d_l v^l ⊗ p^l
                for k in range(depth):
                    for j in range(n):
                        g_p[t, b, k, j] = 0
                for i in range(n):
                    for j in range(n):
                        outer[j] = 0
                    for k in range(depth):
                        scale = d[depth, k] * v[t, b, k, i]
                        for j in range(n):
                            outer[j] += scale * p[t, b, k, j]
                    total = zero
                    for j in range(n):
                        g_alpha[i, j] += g_w[b, i, j] * outer[j]
                        total += g_w[b, i, j] * ws[at, i, j]
                        g_outer[j] = alpha[i, j] * g_w[b, i, j]
                    g_c[depth] += total
                    for k in range(depth):
                        by_v = zero
                        scale = d[depth, k] * v[t, b, k, i]
                        for j in range(n):
                            by_v += g_outer[j] * p[t, b, k, j]
                            g_p[t, b, k, j] += scale * g_outer[j]
                        g_d[depth, k] += v[t, b, k, i] * by_v
                        g_vs[k, i] = d[depth, k] * by_v
                for j in range(n):
                    g_v[j] = g_ys[t, b, j]
                for s in range(depth, 0, -1):
                    # v^s = Σ_{l<s} κ_l v^l + κ_s tanh(read)
                    for k in range(s):
                        total = zero
                        for j in range(n):
                            total += v[t, b, k, j] * g_v[j]
                            g_vs[k, j] += kappa[s - 1, k] * g_v[j]
                        g_kappa[s - 1, k] += total
                    total = zero
                    for j in range(n):
                        y = read[t, b, s - 1, j]
                        total += y * g_v[j]
                        g_reads[s - 1, j] = kappa[s - 1, s] * g_v[j] * (one - y * y)
                    g_kappa[s - 1, s] += total
                    # read = c W u + Σ_{l<s-1} d_l v^l ⊙ α (p^l ⊙ u)
                    for j in range(n):
                        g_u[j] = 0
                    for k in range(s - 1):
                        for j in range(n):
                            g_seen[k, j] = 0
                            seen[k, j] = p[t, b, k, j] * v[t, b, s - 1, j]
                    for i in range(n):
                        scale = g_reads[s - 1, i]
                        for j in range(n):
                            g_u[j] += scale * ws[at, i, j]
                        for k in range(s - 1):
                            g_spread = d[s - 1, k] * scale * v[t, b, k, i]
                            passed = zero
                            for j in range(n):
                                passed += alpha[i, j] * seen[k, j]
                                g_seen[k, j] += g_spread * alpha[i, j]
                                g_alpha[i, j] += g_spread * seen[k, j]
                            g_d[s - 1, k] += v[t, b, k, i] * scale * passed
                            g_vs[k, i] += d[s - 1, k] * scale * passed
                    total = zero
                    for j in range(n):
                        total += g_u[j] * v[t, b, s - 1, j]
                        g_u[j] *= c[s - 1]
                    g_c[s - 1] += total
                    for k in range(s - 1):
                        for j in range(n):
                            g_u[j] += g_seen[k, j] * p[t, b, k, j]
                            g_p[t, b, k, j] += g_seen[k, j] * v[t, b, s - 1, j]
                    for j in range(n):
                        g_v[j] = g_vs[s - 1, j] + g_u[j]
                    if len(linear):
                        for i in range(n):
                            scale = g_p[t, b, s - 1, i]
                            for j in range(n):
                                g_v[j] += scale * linear[i, j]
                    else:
                        for j in range(n):
                            g_v[j] += g_p[t, b, s - 1, j]
                for j in range(n):
                    g_v0[t, b, j] = g_v[j]
                for i in range(n):
                    for j in range(n):
                        outer[j] = 0
                    for s in range(depth):
                        scale = c[s] * g_reads[s, i]
                        for j in range(n):
                            outer[j] += scale * v[t, b, s, j]
                    for j in range(n):
                        g_w[b, i, j] = c[depth] * g_w[b, i, j] + outer[j]
                if resets[t, b]:
                    for i in range(n):
                        for j in range(n):
                            g_start[i, j] += g_w[b, i, j]
                            g_w[b, i, j] = 0


class Fused(torch.autograd.Function):
    """T steps of the layer, as `metods_replay.Replay`, by the loops above.

    `apply(v0, w, start, resets, kappa, c, d, alpha, *weights)`, with tensors on a CPU, of one
    floating-point kind of 32 or 64 bits; `weights` is empty or holds the matrix of a linear write.

    Raises:
        RuntimeError: on a second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, v0: Tensor, w: Tensor, start: Tensor, resets: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The activities of all steps, `[T, B, N]`, and the last weights, `[B, N, N]`."""
        kappa, c, d, alpha, *weights = parameters
        shared = _arrays(Shared(kappa, c, d, alpha, tuple(weights)), start)
        steps, rows, n = v0.shape
        stretch = math.isqrt(max(0, steps - 1)) + 1
        kept = v0.new_empty(-(-steps // stretch), rows, n, n)
        v, read, p = (v0.new_empty(steps, rows, len(kappa), n) for _ in range(3))
        ys, last = torch.empty_like(v0), w.detach().clone(memory_format=torch.contiguous_format)
        anew = torch.zeros(steps, rows, dtype=torch.bool) if resets is None else resets

        def work(first: int, end: int, number: int) -> None:
            _forward(
                first, end, stretch, array(v0), array(last), array(start), array(anew),
                *shared, *map(array, (kept, v, read, p, ys)),
            )  # fmt: skip

        share_out(work, rows)
        ctx.stretch = stretch
        ctx.save_for_backward(anew, kept, v, read, p, start, *parameters)
        return ys, last

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
                "a fused scan can be differentiated once: for second derivatives make the "
                "layer with form='lazy'"
            )
        anew, kept, v, read, p, start, kappa, c, d, alpha, *weights = ctx.saved_tensors
        shared = _arrays(Shared(kappa, c, d, alpha, tuple(weights)), start)
        g_w, g_v0, g_p = g_last.clone(), torch.empty_like(g_ys), torch.empty_like(p)
        threads = torch.get_num_threads()
        sums = [x.new_zeros(threads, *x.shape) for x in (start, kappa, c, d, start)]

        def work(first: int, end: int, number: int) -> None:
            _backward(
                first, end, ctx.stretch, array(g_ys), array(anew), array(start), *shared,
                *map(array, (kept, v, read, p, g_w, g_v0, g_p)),
                *(array(x[number]) for x in sums),
            )  # fmt: skip

        share_out(work, len(g_w))
        g_start, g_kappa, g_c, g_d, g_alpha = (x.sum(0) for x in sums)
        if not alpha.ndim:
            g_alpha = g_alpha.sum()
        g_weights = (g_p.flatten(0, 2).T @ v.flatten(0, 2),) if weights else ()
        return g_v0, g_w, g_start, None, g_kappa, g_c, g_d, g_alpha, *g_weights


def _arrays(shared: Shared, start: Tensor) -> tuple[np.ndarray, ...]:
    """κ, c, d, α as a matrix, and the matrix of a linear write or one of no rows."""
    linear = shared.weights[0] if shared.weights else start[:0]
    alpha = shared.alpha.expand_as(start)
    return tuple(map(array, (shared.kappa, shared.c, shared.d, alpha, linear)))
