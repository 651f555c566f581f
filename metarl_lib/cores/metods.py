"""MetODS: a layer that rewrites its own weights by recursive Hebbian reads and writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl_lib.cores.base import Core, State, begin, can_fuse
from metarl_lib.cores.metods_replay import Kernels, Replay, Shared, forward_step, project

WRITES = ("vanilla", "linear", "mlp")
PLASTICITIES = ("matrix", "scalar", "none")
INITIALS = ("learned", "zero", "sampled")
FORMS = ("auto", "fused", "replay", "lazy", "naive")
COMPILERS = ("c++", "g++", "clang++")


class MetODS(Core):
    """The layer of Chalvidal, Serre & VanRullen (2022), equations 5 and 6.

    From the embedded input v⁰ = tanh(f(x)) and the weights W⁰ = W_{t-1} it computes, for
    s = 1 … S with scalars κ and β (Algorithm 1; equation 6 prints the second sum up to l = s,
    which would be circular):

        v^s = Σ_{l<s} κ_s^l v^l + κ_s^s tanh(W^{s-1} v^{s-1})
        W^s = Σ_{l<s} β_s^l W^l + β_s^s α ⊙ v^{s-1} ⊗ p(v^{s-1})

    then gives v^S and keeps W_t = W^S. No activity is carried on: W is the only memory,
    `[B, O, O]`.

    Args:
        input_size: I.
        num_units: O, the N of the paper.
        depth: S.
        write: p is the identity (`"vanilla"`), a linear map, or one with a hidden tanh layer.
        plasticity: α is a learned matrix, one learned scalar, or none, which is a fixed 0.01
            for all. (The paper's "without α" may mean either of the last two, which differ
            little, as β scales what is written, too.)
        initial: the W of a life's start: learned, zero, or drawn once with the parameters from
            N(0, 0.01²) and never changed. It is not drawn anew in each life, because training
            goes through a life again and must meet the same weights.
        form: how it is computed, always with the same result. `"naive"` forms every W^s as
            written; `"lazy"` forms no inner one (see `forward_step`); `"replay"` does as that, and
            keeps few of the W_t for the backward pass of a scan (see `Replay`), which can be
            differentiated once; `"fused"` does that row by row in loops compiled by Numba (see
            `Fused`), on a CPU and for the vanilla and the linear write, and is the replay
            elsewhere. `"auto"` leaves it to `choose_form`.
        bounded: W_t keeps at most all of W_{t-1} (see `bound`). As published, a step can keep
            more, and then W grows exponentially; over thousands of steps it leaves the numbers
            that floats can hold. Bounded, it grows by a write a step at most.
        compile: faster after some seconds of start-up, by the fused form where that is to be
            had; elsewhere the step passes through `torch.compile`, which takes a minute and
            needs a C++ compiler.

    Raises:
        ValueError: for an unknown choice, a size below 1, or `compile` without a compiler.
    """

    def __init__(
        self,
        input_size: int,
        num_units: int,
        depth: int = 4,
        write: str = "linear",
        plasticity: str = "matrix",
        initial: str = "learned",
        *,
        form: str = "auto",
        bounded: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(input_size, num_units)
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth={depth!r}: must be a whole number >= 1")
        for name, value, choices in (
            ("write", write, WRITES),
            ("plasticity", plasticity, PLASTICITIES),
            ("initial", initial, INITIALS),
            ("form", form, FORMS),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(choices)}")
        n = num_units
        self.depth, self.write, self.plasticity = depth, write, plasticity
        self.initial, self.bounded = initial, bounded
        self.form = choose_form(n, depth, write, compiled=compile) if form == "auto" else form
        if self.form == "fused" and write == "mlp":
            raise ValueError(
                "form='fused' and write='mlp': it is there for the vanilla and the linear write "
                "alone; choose form='replay'"
            )
        self.embed = nn.Linear(input_size, n)
        alpha = 0.01 * torch.randn(n, n) if plasticity == "matrix" else torch.tensor(0.01)
        if plasticity == "none":
            self.register_buffer("alpha", alpha)
        else:
            self.alpha = nn.Parameter(alpha)
        residual = torch.eye(depth, depth + 1) + torch.eye(depth, depth + 1).roll(1, 1)
        self.kappa = nn.Parameter(residual.clone())  # [s - 1, l], used where l <= s
        self.beta = nn.Parameter(residual.clone())
        self.project: nn.Module = nn.Identity()
        if write == "linear":
            self.project = nn.Linear(n, n, bias=False)
        elif write == "mlp":
            self.project = nn.Sequential(nn.Linear(n, n), nn.Tanh(), nn.Linear(n, n))
        start = 0.01 * torch.randn(n, n) if initial != "zero" else torch.zeros(n, n)
        if initial == "learned":
            self.start = nn.Parameter(start)
        else:
            self.register_buffer("start", start)
        traced = compile and self.form != "fused"
        if traced and not any(map(shutil.which, COMPILERS)):
            raise ValueError(
                f"compile=True needs a C++ compiler ({', '.join(COMPILERS)}), and there is none: "
                "install one, or leave compile out"
            )
        self._kernels = Kernels().compiled() if traced else Kernels()
        function = _naive if self.form == "naive" else _lazy
        self._update: Callable[[Tensor, Tensor, Shared], tuple[Tensor, Tensor]] = (
            torch.compile(function) if traced else function
        )

    def initial_state(self, batch: int) -> State:
        """The weights of a life's start."""
        return (self.start.expand(batch, -1, -1),)

    def step(self, x: Float[Tensor, "B I"], state: State) -> tuple[Float[Tensor, "B O"], State]:
        """One step, S updates deep."""
        if self.form == "fused" and can_fuse(x) and not torch.is_grad_enabled():
            ys, state = self.scan(x[None], state)
            return ys[0], state
        y, w = self._update(torch.tanh(self.embed(x)), state[0], self._shared())
        return y, (w,)

    def scan(
        self, xs: Float[Tensor, "T B I"], state: State, resets: Tensor | None = None
    ) -> tuple[Float[Tensor, "T B O"], State]:
        """T steps; what depends on parameters or inputs alone is computed once."""
        v, shared = torch.tanh(self.embed(xs)), self._shared()
        parameters = *shared[:4], *shared.weights
        if self.form == "fused" and can_fuse(xs):
            from metarl_lib.cores.metods_fused import Fused  # Numba takes a second to import

            ys, w = Fused.apply(v, state[0], self.start, resets, *parameters)
            return ys, (w,)
        if self.form in ("replay", "fused") and torch.is_grad_enabled():
            ys, w = Replay.apply(self._kernels, v, state[0], self.start, resets, *parameters)
            return ys, (w,)
        initial, outputs = self.initial_state(xs.shape[1]), []
        for t, embedded in enumerate(v):
            (w,) = begin(t, resets, initial, state)
            y, w = self._update(embedded, w, shared)
            state = (w,)
            outputs.append(y)
        return torch.stack(outputs), state

    def _shared(self) -> Shared:
        beta = bound(self.beta) if self.bounded else self.beta
        tables = Tables(beta, beta) if self.form == "naive" else unroll(beta)
        return Shared(self.kappa, *tables, self.alpha, tuple(self.project.parameters()))


def choose_form(num_units: int, depth: int, write: str, *, compiled: bool) -> str:
    """The form for a layer's size, by what a step of training costs and what it keeps.

    CPU milliseconds of one step of 64 rows, forward and backward, in one thread of a busy
    machine (naive / lazy / replay), with the linear write:

        N      S = 1, eager         S = 2                S = 4
        20     0.59 / 0.60 / 0.57   0.88 / 0.78 / 0.58   2.17 / 1.77 / 1.26
        32     0.70 / 0.67 / 0.75   1.45 / 1.54 / 1.15   3.43 / 2.26 / 2.10
        64     1.95 / 1.69 / 2.17   3.94 / 3.07 / 2.68   9.60 / 5.08 / 3.98
        100    5.16 / 4.19 / 3.67   9.22 / 6.59 / 5.06   23.0 / 12.9 / 7.70

        N      S = 1, compiled      S = 2                S = 4
        20     0.19 / 0.26 / 0.28   0.32 / 0.46 / 0.45   0.55 / 0.79 / 0.59
        32     0.28 / 0.35 / 0.55   0.45 / 0.57 / 0.57   0.80 / 0.84 / 0.84
        64     0.71 / 0.59 / 0.88   1.16 / 1.41 / 1.34   3.00 / 2.02 / 2.55
        100    1.47 / 1.45 / 2.01   3.00 / 2.93 / 3.34   6.92 / 4.11 / 4.18

    The replay keeps W at every √T-th step alone, others at each, and the naive form each W^s:
    that decides where the difference in time is small. With one pass there is no inner W^s, and
    small ones cost next to nothing to form once the step is compiled.

    Where the fused form is to be had, compiling means that one. The same on a slower machine
    (replay, eager / fused), the two taking turns:

        N      S = 1          S = 2          S = 4
        20     1.75 / 0.52    4.07 / 0.81    6.03 / 1.49
        32     2.83 / 0.72    4.14 / 1.10    5.92 / 1.35
        64     7.15 / 1.61    8.99 / 2.37    12.8 / 4.35
        100    13.7 / 3.24    18.6 / 5.06    26.9 / 10.0
    """
    if compiled and write != "mlp":
        return "fused"
    if compiled and num_units <= 32:
        return "naive"
    return "lazy" if compiled and depth == 1 else "replay"


class Tables(NamedTuple):
    """W^s = c_s W⁰ + α ⊙ Σ_l d_{s,l} v^l ⊗ p(v^l): `c` `[S + 1]` and `d` `[S + 1, S]`.

    In the naive form both are β.
    """

    c: Tensor
    d: Tensor


def unroll(beta: Float[Tensor, "S S1"]) -> Tables:
    """The tables that β amounts to, by the recursion of W^s put into itself."""
    depth = len(beta)
    unit = torch.eye(depth, dtype=beta.dtype, device=beta.device)
    c, d = [torch.ones_like(beta[0, 0])], [torch.zeros_like(beta[0, :-1])]
    for s in range(1, depth + 1):
        before = beta[s - 1, :s]
        c.append(before @ torch.stack(c))
        d.append(before @ torch.stack(d) + beta[s - 1, s] * unit[s - 1])
    return Tables(torch.stack(c), torch.stack(d))


def bound(beta: Float[Tensor, "S S1"]) -> Float[Tensor, "S S1"]:
    """β with its last row divided by max(1, |c_S|), so that W^S keeps at most all of W⁰."""
    kept = unroll(beta).c[-1].abs().clamp(min=1)
    return torch.cat([beta[:-1], beta[-1:] / kept])


def _naive(v: Tensor, w: Tensor, shared: Shared) -> tuple[Tensor, Tensor]:
    """The update as written: every W^s is formed."""
    kappa, beta, _, alpha, weights = shared
    vs, ws = [v], [w]
    for s in range(1, len(kappa) + 1):
        read = torch.tanh(torch.bmm(ws[-1], vs[-1][:, :, None])[:, :, 0])
        written = alpha * vs[-1][:, :, None] * project(vs[-1], weights)[:, None, :]
        vs.append(sum(kappa[s - 1, k] * vs[k] for k in range(s)) + kappa[s - 1, s] * read)
        ws.append(sum(beta[s - 1, k] * ws[k] for k in range(s)) + beta[s - 1, s] * written)
    return vs[-1], ws[-1]


def _lazy(v: Tensor, w: Tensor, shared: Shared) -> tuple[Tensor, Tensor]:
    """The same without the inner weights."""
    return forward_step(v, w, shared)[:2]
