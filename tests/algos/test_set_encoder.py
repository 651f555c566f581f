"""The encoder of sets against a loop over samples; their order says nothing."""

import pytest
import torch

from metarl_lib.algos.set_encoder import SetEncoder

SHAPE, REST, UNITS = (4, 2, 3), 5, 7
SIZE = 4 * 5 + REST


def made() -> tuple[SetEncoder, torch.Tensor]:
    torch.manual_seed(0)
    return SetEncoder(SHAPE, SIZE, UNITS), torch.randn(6, 3, SIZE)


def test_it_is_a_mean_over_samples_beside_the_rest() -> None:
    encoder, seen = made()
    found = encoder(seen)
    assert found.shape == (6, 3, UNITS)
    for t in range(6):
        for row in range(3):
            x, y, rest = seen[t, row, :8], seen[t, row, 8:20], seen[t, row, 20:]
            codes = []
            for i in range(4):
                pair = torch.cat([x[2 * i : 2 * i + 2], y[3 * i : 3 * i + 3]])
                codes.append(encoder.point(pair))
            expected = encoder.whole(torch.cat([sum(codes) / 4, rest]))
            torch.testing.assert_close(found[t, row], expected)


def test_the_order_of_samples_does_not_count_but_which_x_has_which_y_does() -> None:
    encoder, seen = made()
    order = torch.tensor([2, 0, 3, 1])

    def shuffled(together: bool) -> torch.Tensor:
        x = seen[..., :8].unflatten(-1, (4, 2))[..., order, :].flatten(-2)
        y = seen[..., 8:20].unflatten(-1, (4, 3))
        y = (y[..., order, :] if together else y).flatten(-2)
        return encoder(torch.cat([x, y, seen[..., 20:]], -1))

    torch.testing.assert_close(shuffled(True), encoder(seen))
    assert not torch.allclose(shuffled(False), encoder(seen))


def test_a_small_observation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs=19: 4 samples of 2 \+ 3 numbers do not fit"):
        SetEncoder(SHAPE, 19, UNITS)
