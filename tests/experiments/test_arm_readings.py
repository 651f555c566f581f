"""Ways to live with an arm: what they do and what is read off them, by hand."""

import math

import pandas as pd
import pytest
import torch
from gymnasium import spaces

pytest.importorskip(
    "metaworld", reason="the extra mujoco is missing: pip install 'metarl_lib[mujoco]'"
)

from metarl_lib import report
from metarl_lib.envs.base import Step
from metarl_lib.envs.manipulation import Manipulation, ManipulationTasks
from metarl_lib.experiments import arm_readings
from metarl_lib.experiments.arm_readings import GRIP, fingers, follow, push_to, reach_for
from metarl_lib.runs import generator

pytestmark = pytest.mark.xdist_group("metaworld")  # whose tasks take seconds to draw


class Rail:
    """The hand goes where it is drawn, by at most a centimetre in each direction.

    A step pays the hand's place along x, in metres; it meets the goal beyond 4 cm.
    """

    max_steps = 12
    observation_space = spaces.Box(-math.inf, math.inf, (39,))
    action_space = spaces.Box(-1, 1, (4,))

    def reset(self, tasks, generator):
        seen = torch.zeros(len(tasks.goal), 39)
        seen[:, 2] = GRIP[2]
        return seen, seen.clone()

    def step(self, state, action, generator):
        state = state.clone()
        state[:, :3] += 0.01 * action[:, :3]
        x, ended = state[:, 0], torch.zeros(len(state), dtype=torch.bool)
        return state, Step(state.clone(), x, ended, ended, {"success": x > 0.041})

    def sample_tasks(self, batch, generator, split):
        assert split == "test"
        goal = torch.rand(batch, generator=generator)
        return ManipulationTasks(torch.zeros(batch, dtype=torch.long), goal)


def tasks(count: int) -> ManipulationTasks:
    return ManipulationTasks(torch.zeros(count, dtype=torch.long), torch.arange(count))


def test_a_plan_is_followed_stop_by_stop() -> None:
    """One row goes 5 cm along x and stays, the other there and back; numbers by a plain loop."""
    stops = [[0.05, 0.05], [0.05, 0.0]]
    plan = torch.zeros(2, 2, 3)
    plan[..., 0] = torch.tensor(stops)
    rewards, met = follow(Rail(), tasks(2), plan, near=0.012)
    for row, (first, second) in enumerate(stops):
        x, stop, places = 0.0, first, []
        for _ in range(Rail.max_steps):
            x += 0.01 * max(-1.0, min(1.0, 25 * (stop - x)))
            places.append(x)
            stop = second if abs(stop - x) < 0.012 else stop
        assert rewards[:, row].tolist() == pytest.approx(places, abs=1e-6)
        assert met[:, row].tolist() == [x > 0.041 for x in places]
    assert met[-1, 0]  # stayed
    assert rewards[-1, 1] < 0.02  # came back
    short, _ = follow(Rail(), tasks(2), plan, steps=3)
    assert len(short) == 3


def test_who_is_told_goes_to_the_goal() -> None:
    env = Manipulation("reach-v3", 90)
    known = tasks(3)
    rewards, met = follow(env, known, env.goals(known).float()[:, None])
    assert rewards[-1].tolist() == pytest.approx([10.0] * 3)
    assert met[-1].all()
    _, seen = env.reset(known, generator(0, "evaluation"))
    stop = fingers(seen) + torch.tensor([0.02, -0.5, 0.0])
    assert reach_for(seen, stop)[0].tolist() == pytest.approx([0.5, -1.0, 0.0, 0.0], abs=1e-5)


def test_the_script_pushes_the_puck_to_where_it_is_told() -> None:
    env = Manipulation("push-v3", 110)
    known = tasks(2)
    goal = env.goals(known).float()
    _, met = follow(env, known, goal[:, None], push_to, arm_readings.puck)
    assert met[-1].all()
    from metaworld.policies import SawyerPushV3Policy

    _, seen = env.reset(known, generator(0, "evaluation"))
    observation = seen[1].double().numpy().copy()
    observation[36:] = goal[1]
    action = SawyerPushV3Policy().get_action(observation)
    assert push_to(seen, goal)[1].tolist() == pytest.approx(action.clip(-1, 1).tolist(), abs=1e-6)


def test_ways_to_live_are_judged_by_hand() -> None:
    met = torch.tensor([[False, False], [True, False], [False, False]])
    rewards = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    found = arm_readings.judged({"sweep": (rewards, met)})
    assert found.loc["sweep"].tolist() == [0.5, 10.5]
    text = arm_readings.judged_text(found)
    assert text.loc["sweep"].tolist() == ["0.50", "10"]


def results(values: dict[str, list[list[float]]]) -> report.Published:
    """Agents with the returns of two episodes, `[seed][episode]`."""
    rows = []
    for variant, by_seed in values.items():
        for seed, (first, last) in enumerate(by_seed):
            own = {"test_return@1": first, "test_return@2": last, "test_return": (first + last) / 2}
            own |= {"test_success@1": first / 100, "test_success@2": last / 100}
            own |= {"train_success": 0.25, "test_success": last / 100}
            rows += [(variant, m, seed, x) for m, x in own.items()]
    seeds = pd.DataFrame(rows, columns=["variant", "metric", "seed", "value"])
    summary = report.summarise(seeds, ["variant", "metric"])
    config = {"episodes": 2, "test_trials": 3, "variants": list(values)}
    return report.Published("arm", summary, seeds, pd.DataFrame(), [], config)


AGENTS = {"gru-matched": [[1.0, 3.0], [2.0, 6.0]], "maml": [[50.0, 40.0], [60.0, 70.0]]}


def test_who_is_ahead_of_one_place_with_the_goals_of_each_seed() -> None:
    """On the rail, one place at 5 cm earns the same with any goal."""
    found = results(AGENTS)
    stop = torch.tensor([0.05, 0.0, 0.0])
    earned = float(follow(Rail(), tasks(1), stop.expand(1, 1, 3))[0].sum())
    assert 0.4 < earned < 0.6
    assert arm_readings.ahead_of(found, Rail(), stop) == ["gru-matched", "maml"]
    low = results(AGENTS | {"gru-matched": [[0.1, 0.1], [2.0, 6.0]]})  # one seed below
    assert arm_readings.ahead_of(low, Rail(), stop) == ["maml"]


def test_gains_and_tables_of_agents() -> None:
    found = results(AGENTS)
    assert arm_readings.gains(found, "gru-matched").tolist() == [2.0, 4.0]
    table = arm_readings.agents_text(found, {"maml": "MAML"})
    half = 12.7062047 * 10  # Student's t for one degree of freedom; gains of −10 and 10
    assert table.loc["MAML", "last episode less first"] == f"+0 [{-half:+.0f}, {half:+.0f}]"
    assert table.loc["MAML", "success, known tasks"] == "0.25 [0.25, 0.25]"


def test_the_figure_shows_the_numbers() -> None:
    found = results(AGENTS)
    blind = pd.DataFrame(
        {"success": [1.0, 0.1, 0.9], "return": [9.0, 5.0, 3.0]},
        index=["told", "one place", "sweep"],
    )
    figure = arm_readings.trial_figure(found, ["maml"], blind)
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [55.0, 55.0]
    assert right.lines[0].get_ydata().tolist() == pytest.approx([0.55, 0.55])
    assert [line.get_ydata()[0] for line in left.lines[1:]] == [9.0, 5.0, 3.0]
    assert [line.get_ydata()[0] for line in right.lines[1:]] == [1.0, 0.1, 0.9]
    assert len(arm_readings.trial_figure(found, ["maml"], None).axes[0].lines) == 1
