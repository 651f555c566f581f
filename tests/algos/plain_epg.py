"""Evolved Policy Gradients, one life at a time: torch.nn, torch.optim.Adam, Python loops.

Written from the paper's text and the description of its code, not from the library. It is told the
initial weights and the very numbers that were drawn.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainLoss(nn.Module):
    """The loss of one learner, of whole descriptions x_t."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, 16, 6, 5)
        self.second = nn.Conv1d(16, 32, 4, 2)
        self.context = nn.Linear(32, 32)
        self.hidden = nn.Linear(inputs + 32, 16)
        self.last = nn.Linear(16, 1)

    def of(self, buffer: Tensor) -> Tensor:
        """The context."""
        x = functional.leaky_relu(self.first(buffer.T[None]), 0.2)
        x = functional.leaky_relu(self.second(x), 0.2)
        return self.context(x.mean(2))[0]

    def forward(self, buffer: Tensor, batch: Tensor) -> Tensor:
        """Of the whole buffer `[N, d]` and the rows of a minibatch `[n, d]`."""
        context = self.of(buffer).expand(len(batch), 32)
        x = functional.leaky_relu(self.hidden(torch.cat([batch, context], 1)), 0.2)
        return self.last(x).mean()


def plain_net(weights: list[Tensor]) -> nn.Sequential:
    """A network of tanh layers from matrices `[inputs, outputs]` and biases `[1, outputs]`."""
    layers: list[nn.Module] = []
    for k in range(0, len(weights), 2):
        layer = nn.Linear(*weights[k].shape)
        layer.weight.data = weights[k].T.clone()
        layer.bias.data = weights[k + 1][0].clone()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class PlainLearner:
    """One learner with a list for its memory of steps."""

    def __init__(self, settings, loss, policy, value, memory, log_std) -> None:
        self.settings, self.loss = settings, loss
        self.policy, self.value = plain_net(policy), plain_net(value)
        # The memory of the published code: a layer of 64 inputs that are all 1.
        self.memory = nn.Linear(64, 32)
        self.memory.weight.data = (memory / 64)[:, None].repeat(1, 64)
        self.memory.bias.data = torch.zeros(32)
        self.log_std = nn.Parameter(log_std.clone())
        trained = [*self.policy.parameters(), *self.value.parameters(), self.log_std]
        self.optimiser = torch.optim.Adam(
            [*trained, *self.memory.parameters()], lr=settings.learner_rate
        )
        self.steps: list[tuple] = []

    def scale(self, x: Tensor, place: int) -> Tensor:
        """In deviations from the mean of what was seen (place 0) or done (1) by the last update."""
        if not self.settings.normalise or not self.counted:
            return x
        past = torch.stack([step[place] for step in self.counted])
        deviation = (past.var(0, correction=0) + 1e-8).sqrt()
        return ((x - past.mean(0)) / deviation).clamp(-10, 10)

    @property
    def counted(self) -> list[tuple]:
        whole = len(self.steps) // self.settings.stretch * self.settings.stretch
        return self.steps[:whole]

    @torch.no_grad()
    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        return self.policy(self.scale(observation, 0)) + self.log_std.exp() * noise

    def describe(self, steps: list[tuple], attached: bool) -> Tensor:
        """Rows x_t; the memory's derivative is kept if `attached`."""
        rows = []
        memory = torch.tanh(self.memory(torch.ones(64)))
        for observation, action, reward, _, ended, _ in steps:
            seen = self.scale(observation, 0)
            rows.append((seen, self.scale(action, 1), reward[None], ended.float()[None]))
        missing = 0 if attached else self.settings.buffer - len(rows)
        zero = [torch.zeros_like(part) for part in rows[0]]
        rows = [zero] * missing + rows
        return torch.stack(
            [
                torch.cat(
                    [*row, self.policy(row[0]), self.log_std,
                     memory if attached else memory.detach()]
                )
                for row in rows
            ]
        )  # fmt: skip

    def log_prob(self, step: tuple) -> Tensor:
        mean = self.policy(self.scale(step[0], 0))
        return torch.distributions.Normal(mean, self.log_std.exp()).log_prob(step[1]).sum()

    def learn(self, alpha: float, orders: list[Tensor]) -> None:
        s = self.settings
        stretch = self.steps[-s.stretch :]
        with torch.no_grad():
            values = [self.value(self.scale(step[0], 0))[0] for step in stretch]
            after = [self.value(self.scale(step[5], 0))[0] * ~step[3] for step in stretch]
            old = [self.log_prob(step) for step in stretch]
            advantages, running = [0.0] * s.stretch, 0.0
            for t in reversed(range(s.stretch)):
                delta = stretch[t][2] + s.discount * after[t] - values[t]
                running = delta + s.discount * s.gae_lambda * running * (not stretch[t][4])
                advantages[t] = float(running)
            mean = sum(advantages) / s.stretch
            spread = math.sqrt(sum((a - mean) ** 2 for a in advantages) / (s.stretch - 1))
        for order in orders:
            for start in range(0, s.stretch, s.minibatch):
                chosen = order[start : start + s.minibatch].tolist()
                evolved = self.loss(
                    self.describe(self.steps[-s.buffer :], False),
                    self.describe([stretch[t] for t in chosen], True),
                )
                ppo = 0.0
                for t in chosen:
                    ratio = (self.log_prob(stretch[t]) - old[t]).exp()
                    advantage = (advantages[t] - mean) / (spread + 1e-8)
                    ppo -= torch.minimum(
                        ratio * advantage, ratio.clamp(1 - s.clip, 1 + s.clip) * advantage
                    )
                    error = self.value(self.scale(stretch[t][0], 0))[0] - (
                        advantages[t] + values[t]
                    )
                    ppo += 0.5 * error**2
                loss = (1 - alpha) * evolved + alpha * ppo / len(chosen)
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
