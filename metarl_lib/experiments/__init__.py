"""Experiments: each puts the parts together and measures one thing. `EXPERIMENTS` lists them."""

from metarl_lib.experiments import (
    ant_dir,
    atari,
    bandit,
    cheetah_dir,
    digits,
    epg,
    harlow,
    layer_pool,
    layerwise,
    maml_rl,
    maml_sinusoid,
    maze,
    maze_grid,
    maze_long,
    meta_gradient,
    ml1_reach,
    one_table,
    pearl,
    perturbation_noise,
    teacher_student,
    two_step,
    update_rule,
    weight_space,
)
from metarl_lib.experiments.base import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        teacher_student.EXPERIMENT,
        digits.EXPERIMENT,
        perturbation_noise.EXPERIMENT,
        weight_space.EXPERIMENT,
        update_rule.EXPERIMENT,
        layerwise.EXPERIMENT,
        layer_pool.EXPERIMENT,
        bandit.EXPERIMENT,
        two_step.EXPERIMENT,
        harlow.EXPERIMENT,
        maze.EXPERIMENT,
        maze_grid.EXPERIMENT,
        maze_long.EXPERIMENT,
        ant_dir.EXPERIMENT,
        cheetah_dir.EXPERIMENT,
        ml1_reach.EXPERIMENT,
        maml_sinusoid.EXPERIMENT,
        maml_rl.EXPERIMENT,
        pearl.EXPERIMENT,
        meta_gradient.EXPERIMENT,
        atari.EXPERIMENT,
        epg.EXPERIMENT,
        one_table.EXPERIMENT,
    )
}
