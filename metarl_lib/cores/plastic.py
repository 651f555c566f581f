"""Two other cells whose weights change while they act: Backpropamine and the SRWM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl_lib.cores.base import Core, State, can_fuse

LIMIT = 2.0
"""No trace of Backpropamine leaves ±2."""


class Backpropamine(Core):
    """A recurrent network with fixed weights w, Hebbian traces H, and modulated plasticity.

    After Miconi et al. (2019), retroactive modulation left out:

        h_t = tanh(U x_t + b + (w + α ⊙ H_{t-1}) h_{t-1})
        η_t = f tanh(m · h_t + m_0) + f_0
        H_t = clip(H_{t-1} + η_t ⊙ h_t ⊗ h_{t-1}, −2, 2)

    with one η for each unit that is written to (the rows of H). The memory is (h `[B, O]`,
    H `[B, O, O]`), zero at the start.

    With `compile`, a scan on a CPU is done by loops that Numba compiles (see
    `plastic_fused.Fused`): faster after some seconds of start-up, and to be differentiated once.
    """

    def __init__(self, input_size: int, num_units: int, *, compile: bool = False) -> None:
        super().__init__(input_size, num_units)
        n, self.fused = num_units, compile
        self.embed = nn.Linear(input_size, n)
        self.weight = nn.Parameter(torch.empty(n, n))
        self.alpha = nn.Parameter(0.01 * torch.rand(n, n))
        self.modulator = nn.Linear(n, 1)
        self.fan_out = nn.Linear(1, n)
        nn.init.uniform_(self.weight, -(n**-0.5), n**-0.5)

    def initial_state(self, batch: int) -> State:
        """h = 0 and H = 0."""
        n = self.num_units
        return self.weight.new_zeros(batch, n), self.weight.new_zeros(batch, n, n)

    def step(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        """One step; the output is h."""
        before, trace = state
        plastic = torch.einsum("bij,bj->bi", self.alpha * trace, before)
        h = torch.tanh(self.embed(x) + before @ self.weight.T + plastic)
        eta = self.fan_out(torch.tanh(self.modulator(h)))
        written = torch.baddbmm(trace, (eta * h)[:, :, None], before[:, None, :])
        return h, (h, written.clamp(-LIMIT, LIMIT))

    def scan(
        self, xs: Float[Tensor, "T B I"], state: State, resets: Tensor | None = None
    ) -> tuple[Float[Tensor, "T B O"], State]:
        """T steps."""
        if not (self.fused and can_fuse(xs)):
            return super().scan(xs, state, resets)
        from metarl_lib.cores.plastic_fused import Fused  # Numba takes a second to import

        m, m_0 = self.modulator.weight[0], self.modulator.bias
        f, f_0 = self.fan_out.weight[:, 0], self.fan_out.bias
        ys, h, trace = Fused.apply(
            LIMIT, self.embed(xs), *state, resets, self.weight, self.alpha, m, m_0, f, f_0
        )
        return ys, (h, trace)


class SRWM(Core):
    """A weight matrix that modifies itself by the delta rule.

    After Irie et al. (2022), one head, one learning rate, φ = softmax, x embedded linearly:

        [y, k, q, b] = W_{t-1} φ(x_t)
        W_t = W_{t-1} + sigmoid(b) (W_{t-1} φ(q) − W_{t-1} φ(k)) ⊗ φ(k)

    The memory is W `[B, 3 O + 1, O]`; that of the start is learned.
    """

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__(input_size, num_units)
        self.embed = nn.Linear(input_size, num_units)
        self.initial = nn.Parameter(torch.randn(3 * num_units + 1, num_units))

    def initial_state(self, batch: int) -> State:
        """The learned W."""
        return (self.initial.expand(batch, -1, -1),)

    def step(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        """One step; the output is y, which is read before W changes."""
        (w,) = state
        n = self.num_units

        def read(v: Tensor) -> Tensor:
            return torch.bmm(w, v[:, :, None])[:, :, 0]

        y, k, q, b = read(self.embed(x).softmax(-1)).split([n, n, n, 1], -1)
        k, q = k.softmax(-1), q.softmax(-1)
        change = torch.sigmoid(b) * (read(q) - read(k))
        return y, (torch.baddbmm(w, change[:, :, None], k[:, None, :]),)
