"""The benchmark of evolved losses runs, and its plain peer descends the same loss."""

import pytest
import torch
from torch.nn.utils import vector_to_parameters

from metarl_lib.algos import LifeSettings


def test_the_peers_loss_is_ours(script) -> None:
    settings = LifeSettings(steps=64, stretch=64, buffer=64)
    network = script.Lives(script.Nothing(), settings).network
    phi = network.initial(torch.Generator().manual_seed(1))
    plain = script.PlainLoss(network.described)
    vector_to_parameters(phi, plain.parameters())
    buffer = torch.randn(64, network.described, generator=torch.Generator().manual_seed(2))
    buffer[:, network.seen + script.ACTIONS :] = buffer[0, network.seen + script.ACTIONS :]
    losses = network.layers(phi[None])
    seen, mean, log_std, memory = buffer.split([network.seen, 3, 3, 32], 1)
    prepared = network.prepare(losses, seen[None], 64)
    chosen = torch.arange(5)
    found = network(losses, prepared, mean[None], log_std[:1], memory[:1], chosen)
    assert found.item() == pytest.approx(plain(buffer, buffer[:5]).item(), abs=1e-5)


def test_both_count_steps_of_a_cpu_second(script, monkeypatch) -> None:
    settings = LifeSettings(steps=128)
    clock = iter([2.0, 4.0])
    monkeypatch.setattr(script.time, "process_time", lambda: next(clock))
    assert script.ours(settings, 3) == 3 * 128 / 2
    clock = iter([0.0, 4.0])
    assert script.plain(settings) == 128 / 4


def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    table, result = quick("epg")
    ratios, rates = result["ratios"], [float(line[-2].replace(",", "")) for line in table]
    assert rates[0] == pytest.approx(ratios["inner_steps_per_cpu_s"], abs=1)
    assert rates[0] / rates[1] == pytest.approx(ratios["vs_one_life"], rel=0.02)
    assert rates[2:] == [8000, 785]
