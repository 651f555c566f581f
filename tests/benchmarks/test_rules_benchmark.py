"""The benchmark of the rules runs, its peer takes the same step, and its last line is JSON."""

import pytest
import torch

from metarl_lib.datasets import teacher_student
from metarl_lib.rules import Network


@pytest.mark.parametrize("rule", ["wp", "np"])
def test_the_peer_takes_the_same_step(script, monkeypatch, rule) -> None:
    """Both draw the same stream: noise of one draw for each weight, or each unit and sample."""
    monkeypatch.setattr(script, "RATE", 1e-3)
    monkeypatch.setattr(script, "SIGMA", 0.1)  # far above the rounding of float32
    data = teacher_student(generator=torch.Generator().manual_seed(0)).train
    start = Network((10, 100, 10)).init(torch.Generator().manual_seed(1), std=1.0)
    ours = [p.clone() for p in start]
    script.our_step(rule, ours, data.x, data.y)()
    peers = [p.clone() for p in start]
    script.peer_step(rule, peers, data.x, data.y)()
    for ours_now, peers_now, before in zip(ours, peers, start, strict=True):
        assert (ours_now - before).abs().max() > 1e-3
        torch.testing.assert_close(ours_now - before, peers_now - before, rtol=1e-3, atol=1e-4)


def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    table, result = quick("rules")
    assert [line[0] for line in table] == ["sgd", "wp", "np"]
    for name in ("wp_steps_per_s", "np_steps_per_s", "wp_vs_torch_func", "np_vs_torch_func"):
        assert result["ratios"][name] > 0
