"""A pool of layers in training, together with who chooses from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl_lib.algos import PPO, ActorCritic, Settings, Streams
from metarl_lib.algos.checkpoints import (
    copies,
    optimiser_tensors,
    own_tensors,
    restore_optimiser,
    restore_streams,
    stream_tensors,
    with_prefix,
)
from metarl_lib.algos.set_encoder import SetEncoder
from metarl_lib.algos.write_back import write_back
from metarl_lib.cores import GRU
from metarl_lib.datasets import Tasks
from metarl_lib.envs.base import Step, map_tree
from metarl_lib.envs.layer_pool import LayerPool, PoolState
from metarl_lib.experiments.training_loop import Rhythm, make_updates
from metarl_lib.rules.pool import Plan, Pool
from metarl_lib.runs import Stage

ROUTES = ("learned", "random", "fixed")
MAX_GRAD_NORM = 10.0
"""The pool's gradient is scaled to this norm where larger, as near a network that diverges."""

RHYTHM = Rhythm(logs=50, logs_per_checkpoint=5)


class Watched:
    """A `LayerPool` that keeps the episodes that ended, for the pool to learn from."""

    def __init__(self, env: LayerPool) -> None:
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.sample_tasks, self.reset = env.sample_tasks, env.reset
        self.ended: list[PoolState] = []

    @property
    def max_steps(self) -> int:
        """As the environment's."""
        return self.env.max_steps

    def step(
        self, state: PoolState, action: Tensor, generator: torch.Generator
    ) -> tuple[PoolState, Step]:
        """As the environment's, for actions `[B]`."""
        after, step = self.env.step(state, action, generator)
        rows = step.terminated
        if bool(rows.any()):
            self.ended.append(after if bool(rows.all()) else map_tree(lambda t: t[rows], after))
        return after, step

    def take(self) -> tuple[Tasks, Plan]:
        """The tasks and plans of the episodes that ended since the last call."""
        parts, self.ended = self.ended, []
        together: PoolState = map_tree(lambda *each: torch.cat(each), *parts)
        return together.tasks, self.env.plan(together)


class Blind(nn.Module):
    """Shows an encoder zeros in place of the samples."""

    def __init__(self, encoder: SetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, observations: Tensor) -> Tensor:
        """The code of the rest, `[*B, units]`, of observations `[*B, I]`."""
        samples = self.encoder.sizes[0] + self.encoder.sizes[1]
        rest = observations[..., samples:]
        return self.encoder(torch.nn.functional.pad(rest, (samples, 0)))  # type: ignore[no-any-return]


def make_router(env: LayerPool, units: int, *, blind: bool = False) -> ActorCritic:
    """An agent that sees the samples as a set, or not at all, and keeps to the mask."""
    size = env.observation_space.shape
    assert size is not None
    encoder = SetEncoder(env.shape, size[0], units)
    return ActorCritic(
        GRU(units, units),
        env.observation_space,
        env.action_space,
        encoder=Blind(encoder) if blind else encoder,
        masked=True,
    )


def random_layers(env: LayerPool, batch: int, generator: torch.Generator) -> Tensor:
    """Paths drawn uniformly from those that the mask allows, `[batch, D + 2]`."""
    inputs, hidden, outputs = env.pool.counts

    def draw(count: int) -> Tensor:
        return torch.randint(count, (batch, 1), generator=generator)

    order = torch.rand(batch, hidden, generator=generator).argsort(-1)[:, : env.depth]
    return torch.cat([draw(inputs), order, draw(outputs)], -1)


def first_layers(env: LayerPool, batch: int) -> Tensor:
    """The same path for all: the first layer of each kind, and the first hidden ones.

    `[batch, D + 2]`, as those of `random_layers`.
    """
    middle = torch.arange(env.depth)
    ends = middle.new_zeros(1)
    return torch.cat([ends, middle, ends]).expand(batch, -1)


def plan_of(env: LayerPool, layers: Tensor) -> Plan:
    """A plan with layers `[B, D + 2]`, and the environment's first rate and number of steps."""
    rate = torch.full((len(layers),), env.rates[0])
    return Plan(layers, rate, torch.full_like(layers[:, 0], env.steps[0]))


class PoolTraining:
    """Meta-iterations: rows choose networks for tasks of their own, and the pool learns from them.

    Args:
        env: its pool is trained, in place.
        settings: of PPO; `rows` tasks meet the pool in each of `updates` meta-iterations. Of
            other ways to choose, only these two count.
        streams: of all draws.
        routes: who chooses the layers: `"learned"`, by PPO, `"random"` or `"fixed"`, the first.
        way: of `write_back`.
        rate: Adam's learning rate for the pool at the start; it falls to 0 linearly.
        router: the agent, where routes are learned.

    Raises:
        ValueError: for unknown routes.
    """

    def __init__(
        self,
        env: LayerPool,
        settings: Settings,
        streams: Streams,
        *,
        routes: str = "learned",
        way: str = "maml",
        rate: float = 1e-3,
        router: ActorCritic | None = None,
    ) -> None:
        if routes not in ROUTES:
            raise ValueError(f"routes={routes!r} is unknown: choose one of {', '.join(ROUTES)}")
        self.env, self.settings, self.streams = env, settings, streams
        self.routes, self.way, self.rate, self.done = routes, way, rate, 0
        env.pool = Pool(*(part.clone() for part in env.pool))
        self.optimiser = torch.optim.Adam(list(env.pool), lr=rate)
        self.watched, self.agent = Watched(env), None
        if routes == "learned":
            assert router is not None
            self.agent = PPO(self.watched, router, settings, streams)

    def update(self) -> dict[str, float]:
        """One meta-iteration; `log_loss` and `loss`, means over its tasks whose networks did not
        diverge, NaN if all did, and what PPO says.
        """
        numbers: dict[str, float] = {}
        if self.agent is not None:
            numbers = self.agent.update()
            tasks, plan = self.watched.take()
        else:
            tasks = self.env.sample_tasks(self.settings.rows, self.streams.tasks)
            layers = self._layers(len(tasks.x))
            plan = plan_of(self.env, layers)
        found, slopes = write_back(
            self.env.pool, plan, tasks, self.env.loss, max(self.env.steps), self.way
        )
        left = 1 - min(1.0, self.done / self.settings.updates)
        self.optimiser.param_groups[0]["lr"] = self.rate * left
        for part, slope in zip(self.env.pool, slopes, strict=True):
            part.grad = slope
        torch.nn.utils.clip_grad_norm_(list(self.env.pool), MAX_GRAD_NORM)
        self.optimiser.step()
        self.done += 1
        found = found[found.isfinite()]
        return numbers | {"log_loss": float(found.log().mean()), "loss": float(found.mean())}

    def _layers(self, batch: int) -> Tensor:
        if self.routes == "random":
            return random_layers(self.env, batch, self.streams.actions)
        return first_layers(self.env, batch)

    def checkpoint(self) -> dict[str, Tensor]:
        """All that the training needs to go on, bit for bit."""
        kept = with_prefix("pool", self.env.pool._asdict())
        kept |= with_prefix("adam", optimiser_tensors(self.optimiser))
        kept |= with_prefix("stream", stream_tensors(self.streams._asdict()))
        if self.agent is not None:
            kept |= with_prefix("agent", self.agent.checkpoint())
        return copies(kept | {"done": torch.tensor(self.done)})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint of an equal training."""
        for name, part in self.env.pool._asdict().items():
            part.copy_(kept[f"pool.{name}"])
        restore_optimiser(self.optimiser, own_tensors(kept, "adam"))
        restore_streams(self.streams._asdict(), own_tensors(kept, "stream"))
        if self.agent is not None:
            self.agent.restore(own_tensors(kept, "agent"))
        self.done = int(kept["done"])


def train_pool(stage: Stage, training: PoolTraining) -> None:
    """Train to the end of a stage, from its last checkpoint on; it then holds pool and router.

    Logs `training_log_loss`, the mean since the log before of the logarithm of what the tasks'
    networks reach, and the router's `entropy`.

    Raises:
        DivergenceError: when the loss is no longer finite.
    """
    if stage.finished:
        return
    if stage.tensors:
        training.restore(stage.tensors)

    def average(window: list[dict[str, float]]) -> dict[str, float]:
        names = [name for name in ("log_loss", "entropy") if name in window[0]]
        return {f"training_{n}": sum(w[n] for w in window) / len(window) for n in names}

    def checked(numbers: dict[str, float]) -> dict[str, float]:
        return {"log_loss": numbers["log_loss"]}

    total = training.settings.updates
    make_updates(stage, training, total, average, RHYTHM, checked=checked)
    tensors = with_prefix("pool", training.env.pool._asdict())
    if training.agent is not None:
        tensors |= with_prefix("router", training.agent.model.state_dict())
    stage.save(total, tensors, {}, finished=True)
