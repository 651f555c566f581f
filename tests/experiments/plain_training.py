"""Training by hand, one network at a time: estimates of the gradient, SGD and Adam written out."""

import math

import torch
from plain_lives import CEILING, errors, log_losses, networks, outputs

from metarl_lib.experiments.hand_made import OPTIMISERS
from metarl_lib.runs import Run


def gradient(env, params, x, y, noise):
    leaves = [p.clone().requires_grad_() for p in params]
    return torch.autograd.grad(errors(env.network, leaves, x, y).mean(), leaves)


def weight_estimate(env, params, x, y, noise):
    """(E(W + σΞ) − E(W)) Ξ / σ."""
    moved = [p + env.sigma * n for p, n in zip(params, noise, strict=True)]
    change = errors(env.network, moved, x, y).mean() - errors(env.network, params, x, y).mean()
    return [change / env.sigma * n for n in noise]


def node_estimate(env, params, x, y, noise):
    """(1/(Nσ)) Σ_i (ẽ_i − e_i) ξ_i x_iᵀ, sample by sample; x_i is what the layer is given."""
    estimate = [torch.zeros_like(p) for p in params]
    for i in range(len(x)):
        own, xi = (x[i : i + 1], y[i : i + 1]), [env.sigma * n[i : i + 1] for n in noise]
        change = errors(env.network, params, *own, xi) - errors(env.network, params, *own)
        given = x[i]
        for layer, weight in enumerate(params):
            factor = change / env.sigma / len(x)
            estimate[layer] += factor * torch.outer(noise[layer][i], given)
            given = (
                torch.relu(weight @ given)
                if env.network.activation == "relu"
                else (torch.tanh(weight @ given))
            )
    return estimate


ESTIMATES = {"sgd": gradient, "wp": weight_estimate, "np": node_estimate}


def draw_noise(env, rule, tasks, stream):
    """What a batch of networks draws in one step: for weights, or for units and samples."""
    batch, samples, _ = tasks.x.shape
    shapes = {
        "sgd": [],
        "wp": [(batch, *shape) for shape in env.network.shapes],
        "np": [(batch, samples, width) for width in env.network.widths[1:]],
    }[rule]
    return [torch.randn(1, *shape, generator=stream, dtype=tasks.x.dtype)[0] for shape in shapes]


def plain_training(env, name, rate, tasks, stream):
    """Log losses `[T + 1, B]`, those on held-out samples, the share of these that is classified
    correctly (all 0 in regression), and who died by a loss above the limit, `[B]` each.
    """
    rule, optimiser = OPTIMISERS[name]
    adam = optimiser is torch.optim.Adam
    state, _ = env.reset(tasks, stream)
    own = networks(state.params)
    moments = [[(torch.zeros_like(p), torch.zeros_like(p)) for p in params] for params in own]
    alive = [True] * len(own)
    logs = [[float(e) for e in log_losses(env.network, state.params, tasks)]]
    for step in range(1, env.steps + 1):
        noise = draw_noise(env, rule, tasks, stream)
        logs.append([])
        for b, params in enumerate(own):
            if alive[b]:
                x, y = tasks.x[b], tasks.y[b]
                found = ESTIMATES[rule](env, params, x, y, [n[b] for n in noise])
                for k, g in enumerate(found):
                    change = g
                    if adam:
                        m, v = moments[b][k]
                        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                        moments[b][k] = m, v
                        size = (v / (1 - 0.999**step)).sqrt() + 1e-8
                        change = m / (1 - 0.9**step) / size
                    params[k] = params[k] - rate * change
                error = float(errors(env.network, params, x, y).mean())
                alive[b] = error <= 1e6
            logs[-1].append(math.log(error) if alive[b] else CEILING)
    held_out = [
        float(errors(env.network, params, x, y).mean().log()) if ok else CEILING
        for params, ok, x, y in zip(own, alive, tasks.held_out_x, tasks.held_out_y, strict=True)
    ]
    right = [
        shares_right(env, params, x, y)
        for params, x, y in zip(own, tasks.held_out_x, tasks.held_out_y, strict=True)
    ]
    numbers = (logs, held_out, right, [not ok for ok in alive])
    return tuple(torch.tensor(values, dtype=torch.float64) for values in numbers)


def shares_right(env, params, x, y) -> float:
    """The share of samples whose largest output is that of the label; 0 in regression."""
    if y.is_floating_point():
        return 0.0
    found = [row.index(max(row)) for row in outputs(env.network, params, x).tolist()]
    return sum(a == b for a, b in zip(found, y.tolist(), strict=True)) / len(y)


def runs_again_for_nothing(run, rows, config, run_experiment, monkeypatch) -> None:
    """A second run of a finished folder gives the same rows, logs nothing and learns nothing."""
    logged, tensors = len(run.metrics()), run.tensors()
    assert run.stage("tests").finished
    again = Run.resume(run.folder, run.experiment, config)
    monkeypatch.setattr("metarl_lib.experiments.hand_made.tune", None)
    monkeypatch.setattr("metarl_lib.experiments.learners.make_ppo", None)
    assert run_experiment(config, again) == rows
    assert len(again.metrics()) == logged
    assert all(torch.equal(t, tensors[name]) for name, t in again.tensors().items())
