"""Masked choices against sb3-contrib's distribution, and an agent that learns behind a mask."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableCategorical

from metarl_lib.algos import ActorCritic
from metarl_lib.algos.actor_critic import draw
from metarl_lib.cores import GRU

CHOICES = 5


def seen(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def agent(masked: bool = True) -> ActorCritic:
    torch.manual_seed(0)
    model = ActorCritic(
        GRU(3 + CHOICES, 6), seen(3 + CHOICES), spaces.Discrete(CHOICES), masked=masked
    )
    with torch.no_grad():
        model.policy_head.weight.mul_(600)
        model.policy_head.bias.normal_()
    return model


def observed(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations and the masks in them; one row allows one choice, one row all."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(rows, CHOICES, generator=generator) < 0.5
    mask[:, 3] |= ~mask.any(-1)
    mask[0], mask[1] = torch.arange(CHOICES) == 2, True
    x = torch.randn(rows, 3, generator=generator)
    return torch.cat([x, mask.float()], -1), mask


def test_the_distribution_is_that_of_sb3_contrib() -> None:
    model, (x, mask) = agent(), observed(40)
    y, _ = model.core.step(x, model.initial_state(40))
    theirs = MaskableCategorical(logits=model.policy_head(y), masks=mask.numpy())
    ours = model.step(x, model.initial_state(40)).policy
    torch.testing.assert_close(ours.probs, theirs.probs)
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode, theirs.probs.argmax(-1))
    for action in range(CHOICES):
        rows = mask[:, action]
        chosen = torch.full((40,), action)
        both = [policy.log_prob(chosen) for policy in (ours, theirs)]
        torch.testing.assert_close(both[0][rows], both[1][rows])
        assert bool((ours.probs[~rows, action] == 0).all())
    found, wanted = (
        torch.autograd.grad(
            (policy.entropy() - policy.log_prob(ours.mode)).sum(),
            list(model.policy_head.parameters()),
            retain_graph=True,
        )
        for policy in (ours, theirs)
    )
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)
        assert bool(torch.isfinite(f).all())


def test_a_pass_through_time_reads_the_mask_of_each_step() -> None:
    model, (x, mask) = agent(), observed(40)
    xs = x.view(8, 5, -1)
    policy = model(xs, model.initial_state(5)).policy
    assert torch.equal(policy.probs > 0, mask.view(8, 5, -1))


def test_what_is_forbidden_is_never_drawn_and_the_rest_as_often_as_it_should() -> None:
    model, (x, mask) = agent(), observed(6)
    generator = torch.Generator().manual_seed(2)
    policy = model.step(x, model.initial_state(6)).policy
    drawn = torch.stack([draw(policy, generator) for _ in range(4000)])
    shares = torch.stack([(drawn == k).float().mean(0) for k in range(CHOICES)], -1)
    assert bool((shares[~mask] == 0).all())
    assert float((shares - policy.probs.detach()).abs().max()) < 0.03
    for _ in range(30):
        action, _ = model.predict(x.numpy())
        assert bool(mask.gather(1, torch.as_tensor(action)[:, None]).all())


def test_without_the_word_nothing_is_masked() -> None:
    model, (x, _) = agent(masked=False), observed(40)
    assert bool((model.step(x, model.initial_state(40)).policy.probs > 0).all())


@pytest.mark.parametrize(
    ("space", "size", "words"),
    [
        (spaces.Box(-1.0, 1.0, (2,), np.float32), 8, "only choices are masked"),
        (spaces.Discrete(9), 8, "an observation has 8 numbers, and a mask 9"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(space, size, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        ActorCritic(GRU(size, 6), seen(size), space, masked=True)
    assert "\n" not in str(refusal.value)
