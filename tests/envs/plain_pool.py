"""Networks out of a pool, one row at a time; written from the texts of the environments.

Each row keeps its layers as pairs (W, b), and trains with autograd or with `torch.optim.Adam`.
"""

import math

import torch
from torch import Tensor

Layer = tuple[Tensor, Tensor]


def run(layers: list[Layer], x: Tensor, tanh: bool = False) -> Tensor:
    """x through the layers, each but the last with a nonlinearity."""
    for weight, bias in layers[:-1]:
        z = x @ weight.T + bias
        x = torch.tanh(z) if tanh else z * (z > 0)
    weight, bias = layers[-1]
    return x @ weight.T + bias


def error_of(layers: list[Layer], x: Tensor, y: Tensor, tanh: bool = False) -> Tensor:
    """Mean squared error, or of labels the mean of −log of the right one's probability."""
    out = run(layers, x, tanh)
    if y.is_floating_point():
        return ((out - y) ** 2).mean()
    chances = [row.exp() / row.exp().sum() for row in out]
    return -torch.stack(
        [c[label].log() for c, label in zip(chances, y.tolist(), strict=True)]
    ).mean()


def descend(layers, x, y, rate: float, steps: int, tanh: bool = False) -> list[Layer]:
    """Gradient steps on all layers."""
    for _ in range(steps):
        leaves = [part.detach().clone().requires_grad_() for layer in layers for part in layer]
        pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
        slopes = torch.autograd.grad(error_of(pairs, x, y, tanh), leaves)
        after = [p.detach() - rate * g for p, g in zip(leaves, slopes, strict=True)]
        layers = list(zip(after[::2], after[1::2], strict=True))
    return layers


def layers_of(pool, kind: str, number: int) -> Layer:
    """A layer of the library's pool."""
    return getattr(pool, f"{kind}_weight")[number], getattr(pool, f"{kind}_bias")[number]


class PlainFewShot:
    """One row of `LayerPool`."""

    def __init__(self, pool, task, depth, rates, steps, activations, stop, reward) -> None:
        self.pool, self.task, self.depth, self.reward = pool, task, depth, reward
        self.options = {"activation": activations, "rate": rates, "steps": steps}
        self.actions = [("input", k) for k in range(len(pool.input_bias))]
        self.actions += [("hidden", k) for k in range(len(pool.hidden_bias))]
        self.actions += [("output", k) for k in range(len(pool.output_bias))]
        self.actions += [("stop", 0)] if stop else []
        for name in ("rate", "steps", "activation"):
            values = self.options[name]
            self.actions += [(name, k) for k in range(len(values)) if len(values) > 1]
        asked = [name for name, values in self.options.items() if len(values) > 1]
        self.stages = [*asked, "input", *["hidden"] * depth, "output"]
        self.stage, self.taken = 0, []

    @property
    def over(self) -> bool:
        return self.stage == len(self.stages)

    def allowed(self) -> list[bool]:
        if self.over:
            return [True] * len(self.actions)
        stage, found = self.stages[self.stage], []
        for action in self.actions:
            kind = action[0]
            used = kind == "hidden" and action in self.taken
            found.append((kind == stage or (stage, kind) == ("hidden", "stop")) and not used)
        return found

    def observation(self) -> list[float]:
        x, y = self.task[:2]
        if not y.is_floating_point():
            classes = self.pool.output_bias.shape[-1]
            y = torch.tensor([[float(label == c) for c in range(classes)] for label in y.tolist()])
        numbers = x.flatten().tolist() + y.flatten().tolist()
        numbers += [float(k == self.stage) for k in range(len(self.stages))]
        numbers += [float(action in self.taken) for action in self.actions]
        return numbers + [float(yes) for yes in self.allowed()]

    def decided(self, name: str):
        found = [k for kind, k in self.taken if kind == name]
        return self.options[name][found[0] if found else 0]

    def judged(self, layers, tanh, rate, steps) -> float:
        x, y, held_out_x, held_out_y = self.task
        after = descend(layers, x, y, rate, steps, tanh)
        return float(error_of(after, held_out_x, held_out_y, tanh))

    def step(self, number: int) -> tuple[float, bool, bool, float]:
        """Reward, whether it ended, whether the action was forbidden, the loss or 0."""
        allowed = self.allowed()
        forbidden = not allowed[number]
        while not allowed[number]:
            number = (number + 1) % len(self.actions)
        self.taken.append(self.actions[number])
        last = len(self.stages) - 1
        ended = self.stage == last
        self.stage = last if self.actions[number] == ("stop", 0) else self.stage + 1
        if not ended:
            return 0.0, False, forbidden, 0.0
        kinds = ("input", "hidden", "output")
        chosen = [layers_of(self.pool, kind, k) for kind, k in self.taken if kind in kinds]
        tanh = self.decided("activation") == "tanh"
        loss = self.judged(chosen, tanh, self.decided("rate"), self.decided("steps"))
        reward = -math.log(loss)
        if self.reward == "improvement":
            first = [("input", 0), *[("hidden", k) for k in range(self.depth)], ("output", 0)]
            plain = [layers_of(self.pool, kind, k) for kind, k in first]
            start = [values[0] for values in self.options.values()]
            reward += math.log(self.judged(plain, start[0] == "tanh", *start[1:]))
        return reward, True, forbidden, loss


class PlainThesis:
    """One row of `ThesisLayerPool`, with layers that are objects all episodes share.

    `pool` lists the 35 layers in the order of the actions.
    """

    def __init__(self, pool, copies, amplitude, phase, bounds, scaling, steps, rate) -> None:
        self.pool, self.copies, self.bounds, self.scaling = pool, copies, bounds, scaling
        self.amplitude, self.phase, self.steps, self.rate = amplitude, phase, steps, rate
        self.x = torch.tensor([[-5 + 10 * k / 99] for k in range(100)])
        self.y = amplitude * torch.sin(self.x + phase)
        self.low, self.high = math.inf, -math.inf

    def reset(self) -> list[float]:
        self.network = [tuple(part.clone() for part in layer) for layer in self.copies]
        self.indices, self.time, self.worst = [], 0, -math.inf
        self.train()
        return self.observation()

    def train(self) -> None:
        leaves = [part.requires_grad_() for layer in self.network for part in layer]
        optimiser = torch.optim.Adam(leaves, lr=self.rate)
        for _ in range(self.steps):
            optimiser.zero_grad()
            self.look().backward()
            optimiser.step()
        for leaf in leaves:
            leaf.requires_grad_(False)

    def look(self) -> Tensor:
        out = run(self.network, self.x)
        loss = ((out - self.y) ** 2).mean()
        self.loss, self.size = loss.item(), out.abs().max().item()
        return loss

    def uses(self, layer) -> bool:
        return any(layer is other for other in self.network)

    def observation(self) -> list[float]:
        numbers = [self.amplitude, self.phase, self.size]
        numbers += [0.0] * (5 - len(self.indices)) + [float(k + 1) for k in self.indices]
        return numbers + [float(self.uses(layer)) for layer in self.pool] + [self.loss]

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Reward, whether it ended, whether it was an error."""
        self.time += 1
        layer = self.pool[action]
        shape, error = tuple(layer[0].shape), False
        if self.time == 1 and shape == (40, 1):
            self.network[0] = layer
        elif self.time == 2 and shape == (1, 40):
            self.network[-1] = layer
        elif self.time > 2 and shape == (40, 40) and not self.uses(layer):
            self.network.insert(len(self.network) - 1, layer)
            self.indices.append(action)
        else:
            error = True
        ended = len(self.network) == 5
        self.train() if ended else self.look()
        calibrating = self.bounds is None
        if calibrating:
            self.low, self.high = min(self.low, self.loss), max(self.high, self.loss)
        else:
            self.low, self.high = self.bounds
        self.worst = max(self.worst, self.loss)
        reward = -(self.loss - self.low + 1e-8) / (self.high - self.low + 1e-8)
        if not calibrating and self.scaling == "as_coded":
            reward *= (self.high - self.worst) / self.high
        elif not calibrating and self.scaling == "turned":
            reward *= self.worst / self.high
        return (-1.0 if error else reward), ended, error
