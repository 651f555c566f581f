"""What the experiment on pools of layers trains: its fields, its variants, and how each is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from metarl_lib.algos import ActorCritic, Settings, Streams
from metarl_lib.algos.checkpoints import own_tensors
from metarl_lib.algos.options import check_not_negative
from metarl_lib.datasets import Family, NWayFamily
from metarl_lib.datasets.waves import WaveFamily
from metarl_lib.envs.layer_pool import LayerPool
from metarl_lib.experiments.base import check_minibatch, check_positive, option
from metarl_lib.experiments.meta_agents import Variants, matched_units
from metarl_lib.experiments.meta_training import make_model
from metarl_lib.experiments.pool_baselines import Baseline, make_baseline
from metarl_lib.experiments.pool_training import PoolTraining, make_router
from metarl_lib.rules import Network
from metarl_lib.rules.pool import Pool
from metarl_lib.runs import generator

FEW = "digits"
"""The end of the names of variants that learn to tell digits apart."""


class PoolVariant(NamedTuple):
    """How a pool is trained: who chooses, how it learns, what the chooser sees and may do."""

    routes: str = "learned"
    way: str = "maml"
    blind: bool = False
    options: bool = False


POOLS: dict[str, PoolVariant] = {
    "routed-k5": PoolVariant(),
    "routed-k10": PoolVariant(),
    "random-trained-k10": PoolVariant("random"),
    "fixed-k10": PoolVariant("fixed"),
    "blind-k10": PoolVariant(blind=True),
    "routed-reptile-k10": PoolVariant(way="reptile"),
    "routed-options-k10": PoolVariant(options=True),
    "routed-digits": PoolVariant(),
    "fixed-digits": PoolVariant("fixed"),
}
BASELINES = (
    "maml-k5", "maml-k10", "maml-wide-k10", "reptile-k10", "joint-k10", "scratch-k5",
    "scratch-k10", "maml-digits", "joint-digits", "scratch-digits",
)  # fmt: skip
THESIS: dict[str, dict[str, Any]] = {
    "thesis-recurrent-ppo": {"kind": "recurrent-ppo"},
    "thesis-ppo": {"kind": "ppo"},
    "thesis-turned": {"kind": "recurrent-ppo", "scaling": "turned"},
    "thesis-fast": {"kind": "recurrent-ppo", "learning_rate": 0.01},
    "thesis-ppo-fast": {"kind": "ppo", "learning_rate": 0.01},
}
"""The learner of each, and what is not as in the main runs; all but the first are short."""

ALL = (*POOLS, *BASELINES, *THESIS)
LEFT_OUT = ("thesis-fast", "thesis-ppo-fast")
"""Not trained unless they are asked for: what the thesis shows of them comes after many rounds."""

PLANNED = tuple(v for v in ALL if v not in LEFT_OUT)
COSTLY = ("blind-k10", "routed-reptile-k10", "routed-options-k10", "maml-wide-k10", *THESIS)
FORGETTING = ("routed-k10", "fixed-k10", "random-trained-k10")
UNRELATED = ("square", "sawtooth")


@dataclass(frozen=True)
class Config(Variants):
    """Fields of the experiment on pools of layers.

    Raises:
        ValueError: for an unknown variant, or a number out of range.
    """

    variants: tuple[str, ...] = option(PLANNED, f"what is trained, of {', '.join(ALL)}")
    costly: tuple[str, ...] = option(COSTLY, "those of them that few seeds train")
    costly_seeds: int = option(2, "only runs whose seed is below this number train the costly")
    counts: tuple[int, ...] = option((4, 4, 4), "input, hidden and output layers of a pool")
    units: int = option(40, "units of each hidden layer")
    updates: int = option(2000, "meta-iterations of a pool")
    rows: int = option(100, "tasks of a meta-iteration of a pool")
    rate: float = option(1e-3, "rate of the gradient steps on a sinusoid")
    digits_rate: float = option(0.1, "rate of the gradient steps on digits")
    pool_rate: float = option(3e-3, "learning rate of Adam at the start, for a pool and for MAML")
    output_scale: float = option(0.1, "size of a pool's first output layers: no path stands out")
    router_rate: float = option(2e-3, "learning rate of the router's PPO at the start")
    router_units: int = option(64, "units of the router's layers and of its memory")
    epochs: int = option(2, "passes of PPO over the episodes of a meta-iteration")
    entropy: float = option(0.1, "weight of the router's entropy at the start")
    entropy_end: float = option(0.01, "weight of the router's entropy at the end")
    digits_updates: int = option(1000, "meta-iterations of a pool on digits, or with more choices")
    iterations: int = option(8000, "meta-iterations of MAML, of 25 tasks each")
    digits_iterations: int = option(4000, "meta-iterations of MAML on digits")
    quick_iterations: int = option(8000, "those of Reptile and of joint training, at most")
    tuning_rates: tuple[float, ...] = option(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3), "rates on test tasks that are tried"
    )
    tuning_tasks: int = option(500, "training tasks that choose among rates, or paths")
    test_tasks: int = option(1000, "tasks of a test, never seen")
    forget_updates: int = option(200, "meta-iterations on square waves after those on sinusoids")
    epochs_of_visits: int = option(20, "rounds of visits to the thesis's six training tasks")
    epochs_of_tuning: int = option(2, "rounds of visits with other learning rates or rewards")
    timesteps: int = option(1000, "steps of a visit")
    rollout: int = option(0, "steps between two updates of the thesis's learner; 0 for its default")
    inner_steps: int = option(30, "steps of Adam in an episode of the thesis")
    thesis_rate: float = option(0.01, "rate of Adam on a finished network of the thesis")

    def __post_init__(self) -> None:
        self.check_variants(dict.fromkeys(ALL))
        names = [f for f in self.__dataclass_fields__ if f not in ("variants", "costly")]
        zero = ("entropy", "entropy_end", "rollout")
        check_positive(self, *(name for name in names if name not in zero))
        check_not_negative(self, *zero)
        if len(self.counts) != 3:
            counts = ",".join(map(str, self.counts))
            raise ValueError(f"counts={counts}: give the input, hidden and output layers")
        if self.rollout:
            check_minibatch(self.rollout, f"rollout={self.rollout}")


def shots_of(variant: str) -> int:
    """K of a variant; of digits, of each class."""
    return 1 if variant.endswith(FEW) else int(variant.rsplit("-k", 1)[1])


def family_of(variant: str, queries: int | None = None, shape: str = "sine") -> Family:
    """What a variant learns from, with as many held-out samples as others, or so many."""
    shots = shots_of(variant)
    if variant.endswith(FEW):
        return NWayFamily(shots=shots, held_out_shots=queries or 5)
    return WaveFamily(shape, shots, queries or shots)


def make_env(config: Config, variant: str, seed: int, shape: str = "sine") -> LayerPool:
    """The environment of a variant, with the pool that its training starts from."""
    digits, options = variant.endswith(FEW), POOLS[variant].options
    rate = config.digits_rate if digits else config.rate
    more: dict[str, Any] = {"rates": (rate,)}
    if options:
        more = {"rates": (rate, 10 * rate), "steps": (1, 5), "activations": ("relu", "tanh"),
                "stop": True, "depth": min(2, config.counts[1])}  # fmt: skip
    env = LayerPool(
        family_of(variant, shape=shape), counts=config.counts, units=config.units,
        pool_seed=generator(seed, "init").initial_seed(), **more,
    )  # fmt: skip
    weight = config.output_scale * env.pool.output_weight
    env.pool = env.pool._replace(output_weight=weight)
    return env


def updates_of(config: Config, variant: str) -> int:
    """Meta-iterations of a pool."""
    short = variant.endswith(FEW) or POOLS[variant].options
    return config.digits_updates if short else config.updates


def router_of(config: Config, variant: str, env: LayerPool, seed: int) -> ActorCritic | None:
    """A fresh router, where routes are learned."""
    chosen = POOLS[variant]
    if chosen.routes != "learned":
        return None
    index = list(POOLS).index(variant)
    return make_model(
        lambda: make_router(env, config.router_units, blind=chosen.blind), seed, index
    )


def settings_of(config: Config, env: LayerPool, updates: int, *, later: bool = False) -> Settings:
    """Of PPO; one episode of every row in each meta-iteration."""
    return Settings(
        rows=config.rows, segment=env.max_steps, updates=updates, epochs=config.epochs,
        learning_rate=config.router_rate, discount=1.0, gae_lambda=1.0, whole_trials=True,
        entropy=config.entropy_end if later else config.entropy, entropy_end=config.entropy_end,
    )  # fmt: skip


def trained_pool(
    config: Config,
    variant: str,
    seed: int,
    tensors: Mapping[str, Tensor],
    shape: str = "sine",
    prefix: str | None = None,
) -> tuple[LayerPool, ActorCritic | None]:
    """The environment with the trained pool of a variant, and its router."""
    own = own_tensors(tensors, prefix or variant)
    env = make_env(config, variant, seed, shape)
    env.pool = Pool(**{name: part.clone() for name, part in own_tensors(own, "pool").items()})
    router = router_of(config, variant, env, seed)
    if router is not None:
        router.load_state_dict(own_tensors(own, "router"))
    return env, router


def baseline_of(config: Config, variant: str) -> Baseline:
    """A learner of initial weights, as the configuration wants it."""
    kind, digits = variant.split("-")[0], variant.endswith(FEW)
    units = config.units
    ends = (30, 3) if digits else (1, 1)
    if "wide" in variant:
        counts = config.counts
        sizes = ((units + 1) * units, (ends[0] + 1) * units, (units + 1) * ends[1])
        target = counts[0] * sizes[1] + counts[1] * sizes[0] + counts[2] * sizes[2]
        units = matched_units(
            lambda u: Network((ends[0], u, u, ends[1]), bias=True).num_weights, target
        )
    slow = config.digits_iterations if digits else config.iterations
    return make_baseline(
        kind, (ends[0], units, units, ends[1]), digits,
        config.digits_rate if digits else config.rate, config.tuning_rates,
        slow if kind == "maml" else min(slow, config.quick_iterations), 25, config.pool_rate,
    )  # fmt: skip


def start(
    config: Config,
    env: LayerPool,
    variant: str,
    seed: int,
    updates: int,
    streams: Streams,
    router: ActorCritic | None = None,
) -> PoolTraining:
    """A training of a variant's pool; without a router, or with the one that goes on learning."""
    chosen, later = POOLS[variant], router is not None
    return PoolTraining(
        env, settings_of(config, env, updates, later=later), streams, routes=chosen.routes,
        way=chosen.way, rate=config.pool_rate,
        router=router if later else router_of(config, variant, env, seed),
    )  # fmt: skip
