"""Several agents in one batched environment, each trained by Stable-Baselines3 as it stands.

An environment with A agents a row has observations `[B, A, …]`, actions `[B, A, …]` and one
reward a row, which all its agents share. Two ways to train on it:

- `SharedAgents`: all agents have one policy; B·A rows of a vector environment.
- `learn_independently`: every agent has a learner of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from metarl_lib.envs.adapters import SB3VecEnv
from metarl_lib.envs.base import Step


def one_agent(space: Any) -> spaces.Box:
    """The space of one agent out of a space `[A, …]` of them all."""
    return spaces.Box(space.low[0], space.high[0], dtype=space.dtype)


def _count(venv: SB3VecEnv) -> int:
    """A, the number of agents of a row."""
    assert venv.observation_space.shape is not None
    return int(venv.observation_space.shape[0])


class _AgentRows(VecEnvWrapper):
    """Some of the agents of each row, as rows of a vector environment."""

    def __init__(self, venv: SB3VecEnv, agents: int) -> None:
        self.count = agents
        super().__init__(venv, one_agent(venv.observation_space), one_agent(venv.action_space))
        self.num_envs = venv.num_envs * agents

    def _infos(self, infos: list[dict[str, Any]], agents: slice) -> list[dict[str, Any]]:
        spread = []
        for info in infos:
            last = info.get("terminal_observation")
            for agent in range(self.count):
                own = dict(info)
                if last is not None:
                    own["terminal_observation"] = last[agents][agent]
                spread.append(own)
        return spread

    def reset(self) -> Any:
        raise NotImplementedError

    def step_wait(self) -> Any:
        raise NotImplementedError


class SharedAgents(_AgentRows):
    """All agents of all rows as B·A rows: one policy acts for each of them.

    Args:
        venv: a vector environment over an environment with observations `[A, …]`.
    """

    def __init__(self, venv: SB3VecEnv) -> None:
        super().__init__(venv, _count(venv))

    def reset(self) -> np.ndarray:
        """Start every row anew."""
        return self._flat(self.venv.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Put the agents of a row together again."""
        self.venv.step_async(actions.reshape(self.venv.num_envs, self.count, -1))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step, and give every agent of a row its reward and end."""
        observation, rewards, dones, infos = self.venv.step_wait()
        return (
            self._flat(observation),
            np.repeat(rewards, self.count),
            np.repeat(dones, self.count),
            self._infos(infos, slice(None)),
        )

    @staticmethod
    def _flat(observation: Any) -> np.ndarray:
        flat: np.ndarray = observation.reshape(-1, *observation.shape[2:])
        return flat


UNEVEN = "a learner ended while another wanted to go on: all must ask for equally many steps"


class _Turns:
    """Threads that run strictly one after the other, so that nothing depends on their speed."""

    def __init__(self, venv: SB3VecEnv, agents: int) -> None:
        self.venv, self.agents = venv, agents
        self.condition = threading.Condition()
        self.turn = 0
        self.actions: list[Any] = [None] * agents
        self.result: Any = None
        self.failure: BaseException | None = None
        self.calls = 0
        self.finished: set[int] = set()

    def wait_for(self, agent: int) -> None:
        """Sleep until it is this agent's turn."""
        with self.condition:
            self.condition.wait_for(lambda: self.turn == agent or self.failure is not None)
            if self.failure is not None:
                raise RuntimeError("another agent's learner stopped") from self.failure

    def pass_on(self, agent: int) -> None:
        """Give the turn to the next agent."""
        with self.condition:
            self.turn = (agent + 1) % self.agents
            self.condition.notify_all()

    def fail(self, error: BaseException) -> None:
        """Wake everybody up; the first error counts."""
        with self.condition:
            self.failure = self.failure or error
            self.condition.notify_all()


class _OneAgent(_AgentRows):
    """Agent number `agent` of every row; its calls meet those of the others at each step."""

    def __init__(self, turns: _Turns, agent: int) -> None:
        super().__init__(turns.venv, 1)
        self.turns, self.agent = turns, agent
        self.calls = 0

    def reset(self) -> np.ndarray:
        return self._together(self.venv.reset)[:, self.agent]

    def step_async(self, actions: np.ndarray) -> None:
        self.turns.actions[self.agent] = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, rewards, dones, infos = self._together(self._step_all)
        own = slice(self.agent, self.agent + 1)
        return observation[:, self.agent], rewards.copy(), dones.copy(), self._infos(infos, own)

    def _step_all(self) -> Any:
        return self.venv.step(np.stack(self.turns.actions, 1))

    def _together(self, call: Callable[[], Any]) -> Any:
        """The last agent in turn makes the call; all of them get its result."""
        self.calls += 1
        if self.turns.finished:
            raise RuntimeError(UNEVEN)
        if self.agent == self.turns.agents - 1:
            self.turns.result = call()
            self.turns.calls += 1
        self.turns.pass_on(self.agent)
        self.turns.wait_for(self.agent)
        if self.turns.calls != self.calls:
            raise RuntimeError(UNEVEN)
        return self.turns.result


def learn_independently(
    venv: SB3VecEnv,
    make_learner: Callable[[VecEnv, int], Any],
    total_timesteps: int,
    callback: Any = None,
) -> Sequence[Any]:
    """Train one learner for each agent, all in the same environment at the same time.

    Each learner runs its own, unmodified `learn` in a thread and believes that it has a vector
    environment to itself. The threads take turns in a fixed order and never run at the same
    time, so equal seeds give equal results.

    Args:
        venv: a vector environment over an environment with observations `[A, …]`.
        make_learner: `make_learner(env, agent)` gives a Stable-Baselines3 algorithm. All must
            ask for equally many steps between updates.
        total_timesteps: environment steps of each learner.
        callback: of Stable-Baselines3, for the first learner.

    Returns:
        The A learners.
    """
    agents = _count(venv)
    turns = _Turns(venv, agents)
    learners = [make_learner(_OneAgent(turns, agent), agent) for agent in range(agents)]

    def work(agent: int) -> None:
        try:
            turns.wait_for(agent)
            extra = {"callback": callback} if agent == 0 and callback is not None else {}
            learners[agent].learn(total_timesteps, **extra)
            turns.finished.add(agent)
            turns.pass_on(agent)
        except BaseException as error:
            turns.fail(error)

    threads = [threading.Thread(target=work, args=(agent,)) for agent in range(agents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if turns.failure is not None:
        raise turns.failure
    return learners


class Synapses:
    """`WeightSpace` in mode synapse as P agents, one at each synapse, with one action each.

    Args:
        env: a `WeightSpace` with `action_mode="synapse"`.
    """

    def __init__(self, env: Any) -> None:
        self.inner = env
        self.observation_space = env.observation_space
        self.action_space = spaces.Box(-1.0, 1.0, (*env.action_space.shape, 1), np.float32)
        self.sample_tasks, self.reset = env.sample_tasks, env.reset

    def step(self, state: Any, action: Any, generator: Any) -> tuple[Any, Step]:
        """One action at every synapse, `[B, P, 1]`."""
        stepped: tuple[Any, Step] = self.inner.step(state, action.squeeze(-1), generator)
        return stepped
