"""Model-agnostic meta-learning: initial weights from which few gradient steps go far."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from metarl_lib.algos.maml_by_hand import meta_gradient_by_hand
from metarl_lib.algos.meta_learner import MetaLearner, Samples, fitted, for_each
from metarl_lib.algos.options import check_choice
from metarl_lib.datasets.families import Tasks
from metarl_lib.rules.losses import LOSS_CURVATURES, Loss
from metarl_lib.rules.network import Network, Params

FORMS = ("by_hand", "vmap")
RATES = ("fixed", "learned")
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class MAML(MetaLearner):
    """Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017) of a multilayer perceptron.

    From shared weights θ each task i takes n gradient steps on the loss L_i of a few samples,
    and θ is judged by the loss L̄_i of other samples of the task after them:

        θ_i ← θ_i − α ⊙ ∇L_i(θ_i),   n times, from θ_i = θ
        θ ← θ − β ∇_θ (1/B) Σ_i L̄_i(θ_i)

    Here are the first line, `path`, and the gradient in the second, `meta_gradient`; an
    `OuterLoop` takes the steps of the second.

    Args:
        network: f_θ.
        loss: L, one value per sample, of which the mean is taken.
        inner_steps: n.
        rate: α, or its initial value.
        rates: α is `"fixed"`, or `"learned"` with θ: one number per weight, of either sign, as
            in Meta-SGD (Li et al., 2017).
        first_order: leaves the second derivatives out of the gradient.
        form: how the gradient is found, which is the same in both: `"vmap"` as the equations
            stand, by `torch.func` and autograd, for any loss; `"by_hand"` by formulas written
            out, several times faster, for the losses in `metarl_lib.rules`.
        compile: pass the formulas through `torch.compile`: faster after a minute of start-up;
            needs a C++ compiler.

    Meta-parameters are a plain list of tensors: θ, and if the rates are learned then α, of the
    same shapes.

    Raises:
        ValueError: for an unknown choice, a number out of range, a loss whose formulas are not
            written out, or `compile` without a compiler.
    """

    rates: str = "fixed"
    first_order: bool = False
    form: str = "by_hand"
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "rates", RATES)
        check_choice(self, "form", FORMS)
        if self.form == "by_hand" and self.loss not in LOSS_CURVATURES:
            names = ", ".join(known.__name__ for known in LOSS_CURVATURES)  # type: ignore[attr-defined]
            raise ValueError(
                f"loss={self.loss!r} has no derivatives written out: use one of {names}, "
                'or form="vmap"'
            )
        if self.compile and self.form != "by_hand":
            raise ValueError(f'compile=True and form={self.form!r}: only "by_hand" is compiled')
        if self.compile and not any(map(shutil.which, COMPILERS)):
            raise ValueError(
                f"compile=True needs a C++ compiler ({', '.join(COMPILERS)}), and there is none: "
                "install one, or leave compile out"
            )
        form = meta_gradient_by_hand if self.form == "by_hand" else meta_gradient_by_autograd
        if self.compile:
            form = torch.compile(form, dynamic=False, options={"cpp_wrapper": True})
        object.__setattr__(self, "_form", form)

    def init(self, generator: torch.Generator | None = None) -> Params:
        """Draw meta-parameters: θ as `Network.init` does; every rate starts as `rate`."""
        params = self.network.init(generator)
        learned = self.rates == "learned"
        return params + [torch.full_like(p, self.rate) for p in params if learned]

    def split(self, meta: Sequence[Tensor]) -> tuple[Params, float | Params]:
        """θ and α out of the meta-parameters."""
        count = len(self.network.shapes)
        return list(meta[:count]), list(meta[count:]) or float(self.rate)

    def meta_gradient(self, meta: Sequence[Tensor], tasks: Tasks) -> tuple[Tensor, Params]:
        """The mean of L̄_i over B tasks, and its gradient.

        Args:
            meta: the meta-parameters.
            tasks: L_i is the loss of `x` and `y`, L̄_i that of the held-out samples.

        Returns:
            The loss, a scalar, and a gradient for each of the meta-parameters.

        Raises:
            ValueError: for samples that do not fit the network.
        """
        params, rates = self.split(meta)
        support = fitted(self.network, (tasks.x, tasks.y))
        query = fitted(self.network, (tasks.held_out_x, tasks.held_out_y))
        data = (params, rates, support, query)
        return self._form(self.network, self.loss, *data, self.inner_steps, self.first_order)  # type: ignore[attr-defined]


def meta_gradient_by_autograd(
    network: Network,
    loss: Loss,
    params: Sequence[Tensor],
    rates: float | Sequence[Tensor],
    support: Samples,
    query: Samples,
    steps: int,
    first_order: bool,
) -> tuple[Tensor, Params]:
    """The same as `meta_gradient_by_hand`, as the equations stand; any loss will do.

    The loss is a scalar, and each gradient has the shape of its parameter.
    """

    def task_loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return loss(network(params, x), y).mean()

    meta = [*params] if isinstance(rates, float) else [*params, *rates]
    leaves = [p.detach().requires_grad_() for p in meta]
    alphas = leaves[len(params) :] or for_each(rates, params)
    with torch.enable_grad():
        theta = [p.expand(len(support[0]), *p.shape) for p in leaves[: len(params)]]
        for _ in range(steps):
            slopes = vmap(grad(task_loss))(theta, *support)
            if first_order:
                slopes = [g.detach() for g in slopes]
            theta = [p - a * g for p, a, g in zip(theta, alphas, slopes, strict=True)]
        found = vmap(task_loss)(theta, *query).mean()
    return found.detach(), list(torch.autograd.grad(found, leaves))
