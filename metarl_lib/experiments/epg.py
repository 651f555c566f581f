"""Evolved policy gradients on two families of tasks, beside PPO from scratch and RL²."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from tqdm import tqdm

from metarl_lib.algos import EPG, PPO, Lives
from metarl_lib.experiments.base import Experiment, row
from metarl_lib.experiments.epg_config import (
    Config,
    evolution_of,
    life_of,
    make_agent,
    ppo_settings,
    rl2_of,
    trial,
)
from metarl_lib.experiments.epg_evaluation import (
    look_at,
    saved,
    test_loss,
    test_ppo,
    test_rl2,
)
from metarl_lib.experiments.epg_tasks import TASKS
from metarl_lib.experiments.meta_training import (
    choose,
    last_logged,
    streams_of,
    train_agent,
    tune_rate,
)
from metarl_lib.runs import Row, Run, Stage

NAME = "epg"
SEARCH = 10
"""What random numbers are for, beside those of evolution, training and tests."""

LOGS, CHECKPOINTS = 100, 20

PRESETS = {
    "smoke": Config(
        generations=(2, 2, 2), losses=4, learners=1, hidden=4, life=(3, 1, 1), stretch=(20, 50, 50),
        buffer=(40, 60, 60), beyond=1, ppo_life=(6, 4, 4), ppo_rates=(1e-2,), ppo_stretches=(2,),
        ppo_passes=(1,), ppo_lives=2, rl2_updates=(1, 1, 1), rl2_rates=(3e-3,), rl2_search=1,
        rl2_rows=4, rl2_segment=20, rl2_units=4, test_lives=4,
    ),
    "book": Config(
        tasks=("point",), generations=(40, 1, 1), losses=64, ppo_life=(64, 1, 1),
        ppo_rates=(3e-3, 1e-2), ppo_stretches=(4,), ppo_passes=(4,), ppo_lives=8,
        rl2_updates=(40, 1, 1), rl2_rates=(3e-3,), rl2_search=2, test_lives=50,
    ),
    "full": Config(),
}  # fmt: skip


def run(config: Config, run: Run) -> list[Row]:
    """One seed: evolve a loss, tune PPO and train RL² for each family; then test all."""
    rows: list[Row] = []
    for name in config.tasks:
        evolve(run.stage(f"epg-{name}"), config, name, run.seed)
        tune(run.stage(f"ppo-{name}"), config, name, run.seed)
        search = run.stage(f"rl2-search-{name}")
        tune_rl2(search, config, name, run.seed)
        rate = search.values["rate"]
        rows.append(row("rl2-gru", f"rate_{name}", rate, 1))
        settings = rl2_of(config, config.of("rl2_updates", name), rate)
        index, env = list(TASKS).index(name), trial(config, name)
        agent = make_agent(config, name, run.seed)
        train_agent(run.stage(f"rl2-{name}"), env, agent, settings, run.seed, index)
    tensors = run.tensors()
    for name in config.tasks:
        task = TASKS[name]()
        rows += test_loss(config, run.seed, task, name, tensors[f"epg-{name}.phi"])
        rows += test_ppo(config, run.seed, task, name, run.stage(f"ppo-{name}").values)
        rows += test_rl2(config, run.seed, task, name, tensors)
        rows += saved(config, rows, name)
    rows += look_at(config, run.seed, tensors)
    return rows + last_logged(run)


def evaluate(config: Config, seed: int, tensors: Mapping[str, Tensor]) -> list[Row]:
    """What the evolved losses and RL²'s agents earn, from the published ones."""
    rows: list[Row] = []
    for name in config.tasks:
        task = TASKS[name]()
        rows += test_loss(config, seed, task, name, tensors[f"epg-{name}.phi"])
        rows += test_rl2(config, seed, task, name, tensors)
    return rows


def evolve(stage: Stage, config: Config, name: str, seed: int) -> None:
    """Evolve the loss of a family to the end of its stage; the stage keeps φ alone."""
    if stage.finished:
        return
    settings = evolution_of(config, name)
    lives = Lives(TASKS[name]().env, life_of(config, name))
    epg = EPG(lives, settings, len(TASKS) * seed + list(TASKS).index(name))
    if stage.tensors:
        epg.restore(stage.tensors)
    every = max(1, math.ceil(settings.generations / LOGS))
    save = max(1, math.ceil(settings.generations / CHECKPOINTS))
    bar = tqdm(
        total=settings.generations, initial=epg.done, desc=stage.name, leave=False, disable=None
    )
    while epg.done < settings.generations:
        numbers = epg.update()
        stage.check_finite(epg.done, numbers)
        bar.update()
        bar.set_postfix(fitness=f"{numbers['fitness']:.3g}", refresh=False)
        last = epg.done == settings.generations
        if epg.done % every == 0 or last:
            stage.log(epg.done, numbers)
        if not last and (epg.done % save == 0 or stage.stopping):
            stage.save(epg.done, epg.checkpoint())
    bar.close()
    stage.save(epg.done, {"phi": epg.phi}, finished=True)


def tune(stage: Stage, config: Config, name: str, seed: int) -> None:
    """Try all settings of PPO on equal training tasks; the best has the most reward in a life."""
    env = TASKS[name]().env

    def judge(rate: float, episodes: int, passes: int) -> float:
        lives = Lives(env, ppo_settings(config, name, rate, episodes, passes))
        return float(lives.live(None, 1.0, config.ppo_lives, (seed, SEARCH)).rewards.mean())

    settings = {
        "rate": config.ppo_rates, "episodes": config.ppo_stretches, "passes": config.ppo_passes,
    }  # fmt: skip
    choose(stage, f"ppo_rates={config.ppo_rates}", settings, judge)


def tune_rl2(stage: Stage, config: Config, name: str, seed: int) -> None:
    """Choose the rate at which RL²'s agent is trained."""

    def start(rate: float) -> PPO:
        settings = rl2_of(config, config.rl2_search, rate)
        streams = streams_of(seed, SEARCH + list(TASKS).index(name))
        return PPO(trial(config, name), make_agent(config, name, seed), settings, streams)

    tune_rate(stage, "rl2_rates", config.rl2_rates, start, config.rl2_search)


EXPERIMENT = Experiment(
    name=NAME,
    page="book/algorithms/04_evolved_policy_gradients.md",
    claim="Does an evolved loss teach fresh learners new tasks in fewer steps than PPO?",
    presets=PRESETS,
    cost={"smoke": "10 s", "book": "2 min", "full": "30 min"},
    run=run,
    evaluate=evaluate,
)
