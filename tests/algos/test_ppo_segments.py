"""What a training collects against a plain loop over rows, and what a replay makes of it."""

import math

import pytest
import torch
from toy_envs import CountingLoop
from trainings import ACTIONS, CORES, Collected, Training, counting, double, streams

from metarl_lib.algos.actor_critic import draw


@pytest.fixture(autouse=True)
def _double():
    with double():
        yield


class Lives:
    """The lives of all rows told anew: numbers row by row, from the recorded actions alone."""

    def __init__(self, training: Training, seed: int = 0) -> None:
        self.settings, self.box = training.settings, ACTIONS["vectors"]
        self.streams = streams(seed)
        self.vectors = training.env.action_space is self.box
        self.start()

    def start(self) -> None:
        count = self.settings.rows
        self.loop = CountingLoop(count, self.streams.tasks, self.streams.environment)
        self.fresh, self.memory = [True] * count, [None] * count
        self.returns = [0.0] * count

    def number(self, action) -> float:
        if not self.vectors:
            return action
        bounds = zip(action, self.box.low.tolist(), self.box.high.tolist(), strict=True)
        first, second = (min(max(part, low), high) for part, low, high in bounds)
        return first + 2 * second

    @torch.no_grad()
    def tell(self, collected: Collected) -> dict[str, list]:
        """What the columns of a segment have to hold, and the returns of what ended."""
        told: dict[str, list] = {name: [] for name in collected.segment._fields}
        told["finished"], told["policies"] = [], []
        told["memory"] = list(self.memory)
        model, rows = collected.model, range(self.settings.rows)
        for t in range(self.settings.segment):
            seen = self.loop.observation()
            before = [
                model.initial_state(1) if new else memory
                for new, memory in zip(self.fresh, self.memory, strict=True)
            ]
            outs = [model.step(torch.tensor([seen[b]]), before[b]) for b in rows]
            self.memory = [out.state for out in outs]
            actions = collected.segment.actions[t]
            said = self.loop.step([self.number(a) for a in actions.tolist()])
            after = self.loop.observation()
            ahead = [model.step(torch.tensor([after[b]]), self.memory[b]) for b in rows]
            told["observations"].append(seen)
            told["resets"].append(self.fresh)
            told["policies"].append([out.policy for out in outs])
            told["values"].append([float(out.values) for out in outs])
            told["log_probs"].append(
                [float(out.policy.log_prob(a[None])) for out, a in zip(outs, actions, strict=True)]
            )
            told["rewards"].append([reward for reward, _, _ in said])
            told["next_values"].append(
                [
                    0.0 if term or (cut and not self.settings.bootstrap) else float(out.values)
                    for (_, term, cut), out in zip(said, ahead, strict=True)
                ]
            )
            self.fresh = [term or cut for _, term, cut in said]
            told["ended"].append(self.fresh)
            for b in rows:
                self.returns[b] += said[b][0]
                if self.fresh[b]:
                    told["finished"].append(self.returns[b])
                    self.returns[b] = 0.0
            self.loop.restart(self.fresh)
        return told


CASES = [
    pytest.param("gru", "choices", False, False, id="gru"),
    pytest.param("lstm", "choices", True, False, id="lstm-bootstrap"),
    pytest.param("gru", "vectors", True, True, id="gru-vectors-bootstrap-whole"),
    pytest.param("metods", "vectors", False, False, id="metods-vectors"),
    pytest.param("metods", "choices", True, False, id="metods-bootstrap"),
    pytest.param("metods", "choices", False, True, id="metods-whole"),
]


@pytest.mark.parametrize(("core", "actions", "bootstrap", "whole"), CASES)
def test_segments_hold_what_happened(core, actions, bootstrap, whole) -> None:
    """Three of them with learning in between; memory is carried over, and new where trials start.

    `whole` starts new trials with every segment, and forgets the returns of the old.
    """
    training = counting(core, actions, bootstrap=bootstrap, whole_trials=whole)
    told_of = [training.update() for _ in range(3)]
    lives = Lives(training)
    ends = 0
    for index, (collected, numbers) in enumerate(zip(training.collected, told_of, strict=True)):
        if whole and index:
            lives.start()
        told, segment = lives.tell(collected), collected.segment
        for name in ("observations", "rewards", "values", "next_values", "log_probs"):
            torch.testing.assert_close(getattr(segment, name), torch.tensor(told[name]), msg=name)
        for name in ("resets", "ended"):
            assert getattr(segment, name).tolist() == told[name], name
        for row, memory in enumerate(told["memory"]):
            if not told["resets"][0][row]:
                for whole_state, part in zip(segment.memory, memory, strict=True):
                    torch.testing.assert_close(whole_state[row], part[0])
        count, total = len(told["finished"]), sum(told["finished"])
        assert collected.finished.tolist() == pytest.approx([total, count])
        assert numbers["return"] == pytest.approx(total / count)
        every = [reward for line in told["rewards"] for reward in line]
        assert numbers["reward"] == pytest.approx(sum(every) / len(every))
        assert segment.resets[0].all() == (whole or index == 0)
        ends += count
    assert ends > 8


@pytest.mark.parametrize("actions", ACTIONS)
def test_actions_are_drawn_from_their_stream(actions) -> None:
    training = counting("gru", actions)
    training.update()
    told = Lives(training).tell(training.collected[0])
    stream = streams(0).actions
    for policies, action in zip(
        told["policies"], training.collected[0].segment.actions, strict=True
    ):
        if actions == "choices":
            logits = torch.cat([policy.logits for policy in policies])
            policy = torch.distributions.Categorical(logits=logits)
        else:
            mean, deviation = (
                torch.cat([getattr(p, n) for p in policies]) for n in ("mean", "stddev")
            )
            normal = torch.distributions.Normal(mean, deviation)
            policy = torch.distributions.Independent(normal, 1)
        torch.testing.assert_close(draw(policy, stream), action)


def test_vectors_are_recorded_as_drawn_and_taken_as_clipped() -> None:
    """The recorded ones leave the bounds; `test_segments_hold_what_happened` saw them clipped."""
    training = counting("gru", "vectors")
    training.update()
    actions, box = training.collected[0].segment.actions, ACTIONS["vectors"]
    beyond = (actions < torch.tensor(box.low)) | (actions > torch.tensor(box.high))
    assert 5 < beyond.sum() < actions.numel()


@pytest.mark.parametrize("whole", [False, True], ids=["carried", "whole"])
@pytest.mark.parametrize("core", CORES)
def test_a_replay_gives_the_same_again(core, whole) -> None:
    """From the stored inputs and one memory per row, resets in the middle included; float32."""
    torch.set_default_dtype(torch.float32)
    training = counting(core, segment=11, whole_trials=whole)
    for _ in range(3):
        training.update()
    for segment, _, model in training.collected:
        out = model(segment.observations, segment.memory, segment.resets)
        log_probs = out.policy.log_prob(segment.actions)
        torch.testing.assert_close(log_probs, segment.log_probs, rtol=0, atol=1e-6)
        torch.testing.assert_close(out.values, segment.values, rtol=0, atol=1e-6)
        assert segment.resets[1:].sum() > 4
        assert not segment.observations.requires_grad
        assert not any(m.requires_grad for m in segment.memory)


def test_without_an_end_there_is_no_return() -> None:
    """No trial takes a single step."""
    training = counting(segment=1)
    assert math.isnan(training.update()["return"])


def test_a_return_spans_segments() -> None:
    """Six segments of one step, as one of six steps with the same agent."""
    pieces, whole = counting(segment=1, learning_rate=0.0), counting(segment=6, learning_rate=0.0)
    for _ in range(6):
        pieces.update()
    whole.update()
    finished = torch.stack([collected.finished for collected in pieces.collected]).sum(0)
    torch.testing.assert_close(finished, whole.collected[0].finished)
    rewards = torch.cat([collected.segment.rewards for collected in pieces.collected])
    torch.testing.assert_close(rewards, whole.collected[0].segment.rewards)
