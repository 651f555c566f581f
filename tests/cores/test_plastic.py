"""Backpropamine and the SRWM: which index is written by what, the clip, and the delta rule."""

import math

import pytest
import torch
from plain_cores import backpropamine, srwm

from metarl_lib.cores import SRWM, Backpropamine


def row_of(state, b):
    return tuple(part[b].tolist() for part in state)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def backprop(units=4, inputs=3, **options):
    """Parameters so large that the trace matters."""
    torch.manual_seed(0)
    core = Backpropamine(inputs, units, **options).double()
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return core


@pytest.mark.parametrize(("kind", "plain"), [(Backpropamine, backpropamine), (SRWM, srwm)])
def test_a_step_is_that_of_the_equations_in_plain_python(kind, plain) -> None:
    torch.manual_seed(1)
    core = kind(3, 4).double()
    state = tuple(randn(*s.shape, seed=k) for k, s in enumerate(core.initial_state(2)))
    x = randn(2, 3, seed=9)
    y, after = core.step(x, state)
    for b in range(2):
        expected, memory = plain(core, x[b].tolist(), row_of(state, b))
        for found, value in zip((y, *after), (expected, *memory), strict=True):
            exact = torch.tensor(value, dtype=torch.float64)
            torch.testing.assert_close(found[b], exact, rtol=1e-12, atol=1e-12)


def test_the_trace_is_written_at_row_of_the_present_and_column_of_the_past() -> None:
    """With one active unit before and one after, one number of H changes: that between them."""
    core = backprop(units=3, inputs=1)
    with torch.no_grad():
        for p in core.parameters():
            p.zero_()
        core.embed.bias[2] = 0.5  # h = (0, 0, tanh 0.5)
        core.fan_out.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))  # η, f = 0
    before = torch.tensor([[0.0, 0.7, 0.0]], dtype=torch.float64)
    h, (_, trace) = core.step(torch.zeros(1, 1).double(), (before, torch.zeros(1, 3, 3).double()))
    assert h[0].tolist() == pytest.approx([0, 0, math.tanh(0.5)])
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[2, 1] = 3 * math.tanh(0.5) * 0.7
    torch.testing.assert_close(trace[0], expected)


def test_the_trace_is_read_from_its_columns_to_its_rows() -> None:
    core = backprop(units=3, inputs=1)
    with torch.no_grad():
        for p in core.parameters():
            p.zero_()
        core.alpha[0, 1] = 0.5
        core.weight[2, 1] = 0.3
    before = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    trace = torch.full((1, 3, 3), 0.8, dtype=torch.float64)
    h, _ = core.step(torch.zeros(1, 1).double(), (before, trace))
    assert h[0].tolist() == pytest.approx([math.tanh(0.5 * 0.8), 0, math.tanh(0.3)])


def test_the_trace_stays_within_two() -> None:
    core = backprop()
    with torch.no_grad():
        core.fan_out.bias.fill_(1.5)
    h, trace = core.initial_state(3)
    for x in 2 * randn(60, 3, 3):
        _, (h, trace) = core.step(x, (h, trace))
        assert trace.abs().max() <= 2
    assert (trace == 2).any()
    assert (trace == -2).any()
    inside = trace.abs() < 2
    assert inside.any()
    for b in range(3):  # and with the clip at work it is still that of the equations
        state = (h[b].tolist(), trace[b].tolist())
        _, (_, expected) = backpropamine(core, [1.0, -1.0, 2.0], state)
        x = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64)
        _, (_, found) = core.step(x, (h[b : b + 1], trace[b : b + 1]))
        torch.testing.assert_close(found[0], torch.tensor(expected, dtype=torch.float64))


def test_no_gradient_passes_where_the_trace_is_clipped() -> None:
    core = backprop()
    with torch.no_grad():
        core.alpha.zero_()  # else h depends on the trace too
    trace = torch.full((1, 4, 4), 10.0, dtype=torch.float64)
    trace[0, 1, 2] = 0
    trace.requires_grad_()
    _, (_, written) = core.step(randn(1, 3, seed=2), (randn(1, 4, seed=1), trace))
    (slope,) = torch.autograd.grad(written.sum(), trace)
    expected = torch.zeros_like(slope)
    expected[0, 1, 2] = 1
    assert torch.equal(slope, expected)


def srwm_problem():
    torch.manual_seed(0)
    core = SRWM(3, 4).double()
    w = randn(2, 13, 4, seed=1)
    return core, randn(2, 3, seed=2), w


def test_the_srwm_is_read_before_it_changes() -> None:
    core, x, w = srwm_problem()
    y, _ = core.step(x, (w,))
    for b in range(2):
        expected = w[b, :4] @ core.embed(x[b]).softmax(-1)
        torch.testing.assert_close(y[b], expected, rtol=1e-12, atol=1e-12)


def test_what_the_srwm_says_at_the_key_moves_towards_what_it_says_at_the_query() -> None:
    """The delta rule, by a rate in (0, 1) times ‖φ(k)‖²; what is orthogonal to the key stays."""
    core, x, w = srwm_problem()
    _, (after,) = core.step(x, (w,))
    for b in range(2):
        out = w[b] @ core.embed(x[b]).softmax(-1)
        key, query, rate = out[4:8].softmax(-1), out[8:12].softmax(-1), out[12].sigmoid()
        moved = w[b] @ key + rate * key.square().sum() * (w[b] @ query - w[b] @ key)
        torch.testing.assert_close(after[b] @ key, moved, rtol=1e-12, atol=1e-12)
        other = randn(4, seed=3)
        other = other - (other @ key) / (key @ key) * key
        torch.testing.assert_close(after[b] @ other, w[b] @ other, rtol=1e-12, atol=1e-12)


def test_where_key_and_query_agree_the_srwm_stays_as_it_is() -> None:
    core, x, w = srwm_problem()
    w[:, 8:12] = w[:, 4:8]
    assert torch.equal(core.step(x, (w,))[1][0], w)


@pytest.mark.parametrize("kind", [Backpropamine, SRWM])
def test_the_memory_stays_finite_in_a_long_life(kind) -> None:
    torch.manual_seed(0)
    core = kind(3, 20)
    with torch.no_grad():
        ys, last = core.scan(torch.randn(1000, 2, 3), core.initial_state(2))
    assert all(part.isfinite().all() for part in (ys, *last))
    assert ys.abs().max() < 10


def slopes(core, xs, memory, resets):
    """Outputs, last memory, and the gradients of a weighted sum of all of them."""
    memory = tuple(part.clone().requires_grad_() for part in memory)
    xs = xs.clone().requires_grad_()
    ys, last = core.scan(xs, memory, resets)
    out = (ys, *last)
    total = sum((x * randn(*x.shape, seed=20 + k)).sum() for k, x in enumerate(out))
    return out + torch.autograd.grad(total, (xs, *memory, *core.parameters()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 17])
def test_compiled_loops_are_the_steps_in_values_and_gradients(steps, threads) -> None:
    """Traces start at the edge of the clip and reach it; some lives begin in between."""
    compiled, plain = backprop(compile=True), backprop()
    for core in (compiled, plain):
        with torch.no_grad():
            core.fan_out.bias.fill_(1.5)
    xs, resets = randn(steps, 4, 3), torch.rand(steps, 4, generator=torch.manual_seed(3)) < 0.2
    resets[:, 0] = False
    memory = (randn(4, 4, seed=1).tanh(), (2 * randn(4, 4, 4, seed=2)).clamp(-2, 2))
    expected = slopes(plain, xs, memory, resets)
    assert (expected[2].abs() == 2).any()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = slopes(compiled, xs, memory, resets)
    finally:
        torch.set_num_threads(before)
    assert len(found) == len(expected) == 3 + 3 + 8
    for value, other in zip(found, expected, strict=True):
        scale = other.abs().max().clamp(min=1)
        torch.testing.assert_close(value / scale, other / scale, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_of_compiled_loops_is_refused() -> None:
    core = backprop(compile=True)
    xs = randn(3, 2, 3).requires_grad_()
    ys, _ = core.scan(xs, core.initial_state(2))
    with pytest.raises(RuntimeError, match="make the layer without compile"):
        torch.autograd.grad(ys.sum(), xs, create_graph=True)
