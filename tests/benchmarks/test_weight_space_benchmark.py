"""The benchmark of the base networks runs, and its table and its JSON say the same."""

import pytest


def test_quick_prints_a_table_and_one_line_of_json(quick) -> None:
    table, result = quick("weight_space")
    assert [line[0] for line in table] == ["perturbation", "gradient"]
    for drive, batched, single, ratio in table:
        assert result["ratios"][f"{drive}_updates_per_s"] == pytest.approx(float(batched), abs=1)
        assert float(ratio) == pytest.approx(float(batched) / float(single), rel=0.05)
    share = result["ratios"]["perturbation_updates_per_s"] / 4000
    assert result["ratios"]["of_target"] == pytest.approx(share, abs=0.01)
