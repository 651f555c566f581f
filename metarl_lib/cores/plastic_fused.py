"""Backpropamine through time, compiled by Numba: each row's H stays in the processor's cache.

As in `metods_fused`, a row goes through all its steps before the next one begins; H is kept at
every √T-th step and rebuilt in between from the activities, which the clipping does not hinder.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from metarl_lib.cores.fused import array, compile_loops, share_out


@compile_loops
@no_type_check
def _write(trace, at, z, before, limit):
    """H[at] ← clip(H[at] + z ⊗ h_{t-1})."""
    n = len(z)
    for i in range(n):
        for j in range(n):
            trace[at, i, j] = min(max(trace[at, i, j] + z[i] * before[j], -limit), limit)


@compile_loops
@no_type_check
def _forward(first, last, stretch, limit, x, h, trace, resets, weight, alpha, m, m_0, f, f_0,
             kept, hs, ys, eta, signal):  # fmt: skip
    """Rows `first` to `last` through all steps; `h`, `trace` and the last line are written to.

    `ys` are the h_t, `hs` the h_{t-1} that the steps start from, zero after a reset.
    """
    steps, _, n = x.shape
    one, two = x.dtype.type(1), x.dtype.type(2)
    total, z = np.empty(n, x.dtype), np.empty(n, x.dtype)
    for b in range(first, last):
        for t in range(steps):
            if resets[t, b]:
                trace[b] = 0
                h[b] = 0
            if t % stretch == 0:
                kept[t // stretch, b] = trace[b]
            for j in range(n):
                hs[t, b, j] = h[b, j]
            for i in range(n):
                read = x.dtype.type(0)
                for j in range(n):
                    read += (weight[i, j] + alpha[i, j] * trace[b, i, j]) * hs[t, b, j]
                total[i] = x[t, b, i] + read
            modulator = m_0
            for i in range(n):
                h[b, i] = one - two / (math.exp(two * total[i]) + one)
                ys[t, b, i] = h[b, i]
                modulator += m[i] * h[b, i]
            signal[t, b] = math.tanh(modulator)
            for i in range(n):
                eta[t, b, i] = f[i] * signal[t, b] + f_0[i]
                z[i] = eta[t, b, i] * h[b, i]
            _write(trace, b, z, hs[t, b], limit)


@compile_loops
@no_type_check
def _backward(first, last, stretch, limit, g_ys, ys, resets, weight, alpha, m, f,
              kept, hs, eta, signal, g_h, g_trace, g_x, g_eta, g_modulator, g_alpha):  # fmt: skip
    """The derivative of `_forward`.

    `g_h` and `g_trace`, the gradients by the last memory, become those by the first; `g_alpha` is
    added to; `g_x`, `g_eta` and `g_modulator` (by what its tanh is taken of) are written.
    """
    steps, _, n = g_ys.shape
    zero, one = g_ys.dtype.type(0), g_ys.dtype.type(1)
    traces = np.empty((stretch, n, n), g_ys.dtype)
    z, g, g_before = np.empty(n, g_ys.dtype), np.empty(n, g_ys.dtype), np.empty(n, g_ys.dtype)
    for b in range(first, last):
        for number in range(len(kept) - 1, -1, -1):
            begin = number * stretch
            end = min(begin + stretch, steps)
            traces[0] = kept[number, b]
            for t in range(begin + 1, end):
                if resets[t, b]:
                    traces[t - begin] = 0
                else:
                    for i in range(n):
                        z[i] = eta[t - 1, b, i] * ys[t - 1, b, i]
                    traces[t - begin] = traces[t - begin - 1]
                    _write(traces, t - begin, z, hs[t - 1, b], limit)
            for t in range(end - 1, begin - 1, -1):
                at = t - begin
                # the write: H_t = clip(H_{t-1} + z ⊗ h_{t-1}), z = η ⊙ h_t
                g_signal = zero
                for j in range(n):
                    g_before[j] = 0
                for i in range(n):
                    z_i = eta[t, b, i] * ys[t, b, i]
                    by_z = zero
                    for j in range(n):
                        written = traces[at, i, j] + z_i * hs[t, b, j]
                        passed = g_trace[b, i, j] if abs(written) <= limit else zero
                        g_trace[b, i, j] = passed
                        by_z += passed * hs[t, b, j]
                        g_before[j] += z_i * passed
                    g[i] = g_h[b, i] + g_ys[t, b, i] + by_z * eta[t, b, i]
                    g_eta[t, b, i] = by_z * ys[t, b, i]
                    g_signal += f[i] * g_eta[t, b, i]
                g_modulator[t, b] = g_signal * (one - signal[t, b] * signal[t, b])
                # h_t = tanh(x_t + (w + α ⊙ H_{t-1}) h_{t-1}), of which the modulator is a function
                for i in range(n):
                    y = ys[t, b, i]
                    slope = (g[i] + g_modulator[t, b] * m[i]) * (one - y * y)
                    g_x[t, b, i] = slope
                    for j in range(n):
                        g_alpha[i, j] += slope * traces[at, i, j] * hs[t, b, j]
                        g_trace[b, i, j] += slope * alpha[i, j] * hs[t, b, j]
                        g_before[j] += slope * (weight[i, j] + alpha[i, j] * traces[at, i, j])
                for j in range(n):
                    g_h[b, j] = g_before[j]
                if resets[t, b]:
                    for i in range(n):
                        g_h[b, i] = 0
                        for j in range(n):
                            g_trace[b, i, j] = 0


class Fused(torch.autograd.Function):
    """T steps of Backpropamine, whose docstring says what the symbols mean.

    `apply(limit, x, h, trace, resets, weight, alpha, m, m_0, f, f_0)`, with tensors on a CPU, of
    one floating-point kind of 32 or 64 bits, and x = U x_t + b `[T, B, O]`, gives all h_t, the
    last h and the last H.

    Raises:
        RuntimeError: on a second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, limit: float, x: Tensor, h: Tensor, trace: Tensor, resets: Tensor | None,
        weight: Tensor, alpha: Tensor, m: Tensor, m_0: Tensor, f: Tensor, f_0: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The activities of all steps, `[T, B, O]`, and the last h `[B, O]` and H `[B, O, O]`."""
        steps, rows, n = x.shape
        stretch = math.isqrt(max(0, steps - 1)) + 1
        kept = x.new_empty(-(-steps // stretch), rows, n, n)
        hs, ys, eta = (torch.empty_like(x) for _ in range(3))
        signal = x.new_empty(steps, rows)
        h, trace = (s.detach().clone(memory_format=torch.contiguous_format) for s in (h, trace))
        anew = torch.zeros(steps, rows, dtype=torch.bool) if resets is None else resets
        numbers = (*map(array, (weight, alpha, m)), array(m_0)[0], *map(array, (f, f_0)))

        def work(first: int, end: int, number: int) -> None:
            _forward(
                first, end, stretch, array(x).dtype.type(limit),
                *map(array, (x, h, trace, anew)), *numbers,
                *map(array, (kept, hs, ys, eta, signal)),
            )  # fmt: skip

        share_out(work, rows)
        ctx.stretch, ctx.limit = stretch, limit
        ctx.save_for_backward(anew, kept, hs, ys, eta, signal, weight, alpha, m, f)
        return ys, h, trace

    @staticmethod
    def backward(ctx: Any, g_ys: Tensor, g_h: Tensor, g_trace: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by all arguments of `forward` that are tensors, each of its shape.

        Args:
            ctx: what `forward` left.
            g_ys: the gradient by the activities, `[T, B, O]`.
            g_h: that by the last h, `[B, O]`.
            g_trace: that by the last H, `[B, O, O]`.

        Raises:
            RuntimeError: on a second derivative.
        """
        if torch.is_grad_enabled():  # with create_graph=True
            raise RuntimeError(
                "a fused scan can be differentiated once: for second derivatives make the "
                "layer without compile"
            )
        anew, kept, hs, ys, eta, signal, weight, alpha, m, f = ctx.saved_tensors
        g_h, g_trace = g_h.clone(), g_trace.clone()
        g_x, g_eta, g_modulator = (torch.empty_like(x) for x in (g_ys, eta, signal))
        g_alphas = alpha.new_zeros(torch.get_num_threads(), *alpha.shape)

        def work(first: int, end: int, number: int) -> None:
            _backward(
                first, end, ctx.stretch, array(g_ys).dtype.type(ctx.limit),
                *map(array, (g_ys, ys, anew, weight, alpha, m, f, kept, hs, eta, signal)),
                *map(array, (g_h, g_trace, g_x, g_eta, g_modulator, g_alphas[number])),
            )  # fmt: skip

        share_out(work, len(g_h))
        by_rows = g_x.flatten(0, 1)
        return (
            None, g_x, g_h, g_trace, None, by_rows.T @ hs.flatten(0, 1), g_alphas.sum(0),
            torch.einsum("tb,tbi->i", g_modulator, ys), g_modulator.sum()[None],
            torch.einsum("tbi,tb->i", g_eta, signal), g_eta.sum((0, 1)),
        )  # fmt: skip
