"""The benchmark of PEARL runs, and its table and its JSON say the same."""

import pytest


def test_rates_are_medians_of_steps_over_seconds(script, monkeypatch) -> None:
    """Of a clock on which PEARL's steps last 2 s, those without z 1 s, and the peer's 0.5 s."""
    clock = [0.0]

    class Learner:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def learn(self) -> None:
            clock[0] += self.seconds

        def train(self, steps: int, batch_size: int) -> None:
            assert batch_size == 12
            clock[0] += steps * self.seconds

    monkeypatch.setattr(script.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(script, "ours", lambda size, latent: Learner(2.0 if latent else 1.0))
    monkeypatch.setattr(script, "peer", lambda size: Learner(0.5))
    size = script.Size((4,), 3, 4, 5)
    assert list(script.rates(size, 7, 3).values()) == [0.5, 1.0, 2.0]


def test_all_learn_from_equally_many_rows_with_equal_layers(script) -> None:
    size = script.Size((6, 5), 3, 4, 5)
    pearl, theirs = script.ours(size, 2), script.peer(size)
    assert [tuple(w.shape[1:]) for w in pearl.model.critic.weights] == [(6, 6), (6, 5), (5, 1)]
    shapes = [tuple(p.shape) for p in theirs.critic.qf0.parameters() if p.ndim == 2]
    assert shapes == [(6, 4), (5, 6), (1, 5)]
    assert theirs.ent_coef == pearl.settings.temperature
    assert pearl.replay.count.min() == theirs.replay_buffer.pos == 100


def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    table, result = quick("pearl")
    (line,) = table
    pearl, plain, theirs, ratio = map(float, line[2:])
    ratios = result["ratios"]
    assert ratios["gradient_steps_vs_sb3_sac"] == pytest.approx(pearl / theirs, rel=0.02)
    assert ratios["without_z_vs_sb3_sac"] == pytest.approx(plain / theirs, rel=0.02)
    assert ratios["gradient_steps_per_s"] == pytest.approx(pearl, abs=0.1)
    assert ratio == pytest.approx(ratios["gradient_steps_vs_sb3_sac"], abs=0.006)
