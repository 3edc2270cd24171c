"""Environments of verifiers (an extra, `verifiers`): {_target_: zero.environments.verifiers.Verifiers, env: {taskset: {id: NAME}}}.

There an environment is a program that asks its agents; here the policy's texts come one by one. So the program runs until it
asks, and waits there for the next text. What it needs beyond texts, this cannot give: tools, a container, a second agent.
Departures: an agent's limits and stop conditions do not count (the rollout has its own), and nothing is run in a harness.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar

from zero.environments import NotAStep, Step
from zero.records import Question


class Verifiers:
    """An environment by the `env` block of the package's own configs. A row's meta["index"] is its task's place in the taskset.

    The first observation is the system prompt and the task's prompt. The reward comes at the end: the sum of all that the
    task and the environment record.
    """

    isolated: ClassVar[bool] = True
    package: ClassVar[str] = "verifiers"
    modules: ClassVar[tuple[str, ...]] = ("verifiers.v1", "verifiers.v1.utils.loaders")

    def __init__(self, env: Mapping[str, Any]) -> None:
        self._program = _program(json.dumps(env, sort_keys=True))
        self._loop = asyncio.new_event_loop()
        self._observation = ""
        self._traces: list[Any] = []

    def reset(self, row: Question, seed: int) -> str:
        """Run the program until it asks for the first time."""
        self._episode = self._loop.create_task(self._run(self._program.task(row.meta["index"])))
        self._advance()
        if self._episode.done():
            self._episode.result()
            raise NotAStep("the episode ended before the policy was asked anything")
        return self._observation

    def step(self, text: str) -> Step:
        """Give the program the text, and run it until it asks again or ends."""
        self._answer.set_result(text)
        self._advance()
        if not self._episode.done():
            return Step(self._observation, 0.0, False)
        self._episode.result()
        self._loop.close()
        return Step("", sum(trace.reward for trace in self._traces), True)

    async def ask(self, observation: str) -> str:
        """For the program: the policy's answer to what it is to read."""
        self._observation, self._answer = observation, self._loop.create_future()
        self._asked.set_result(None)
        return await self._answer

    def _advance(self) -> None:
        self._asked: asyncio.Future[None] = self._loop.create_future()
        either = asyncio.wait({self._episode, self._asked}, return_when=asyncio.FIRST_COMPLETED)
        self._loop.run_until_complete(either)

    async def _run(self, task: Any) -> None:
        import verifiers.v1 as vf

        env = self._program.env
        agents = Agents(env.config, self)
        await env.setup(agents)
        await env.run(task, agents)
        episode = vf.Episode(env=vf.EnvInfo(id=env.config.env_id), task=_trace_task(task), ok=True)
        episode.traces = self._traces
        await env.finalize(task, episode)

    def add(self, trace: Any) -> None:
        """For the program: an agent's part is over."""
        self._traces.append(trace)


class Program:
    """An environment, and those of its tasks that were read so far."""

    def __init__(self, config: str) -> None:
        from verifiers.v1.utils.loaders import load_environment, resolve_env_config

        self.env = load_environment(resolve_env_config(json.loads(config)))
        self._source = iter(self.env.taskset)
        self._tasks: list[Any] = []

    def task(self, index: int) -> Any:
        """The task at this place of the taskset. ValueError if it ends before, or if the task needs more than texts."""
        self._tasks += islice(self._source, max(0, index + 1 - len(self._tasks)))
        if not 0 <= index < len(self._tasks):
            raise ValueError(f"the taskset has no task {index}")
        task = self._tasks[index]
        if task.NEEDS_CONTAINER or task.toolsets(task.config) or self.env.taskset.toolsets(self.env.taskset.config):
            raise ValueError(f"{type(task).__name__} needs a container or tools; only texts go in and out here")
        return task


@lru_cache(maxsize=8)
def _program(config: str) -> Program:
    return Program(config)


class Agents:
    """What a program has as its agents: one, by whatever name, which is the policy."""

    def __init__(self, config: Any, episode: Verifiers) -> None:
        from verifiers.v1.configs.agent import agent_config_fields

        names = list(agent_config_fields(config))
        if len(names) != 1:
            raise ValueError(f"has the agents {', '.join(names)}; there is one policy")
        setattr(self, names[0], Agent(names[0], getattr(config, names[0]), episode))


class Agent:
    """The policy, in the place of an agent of verifiers."""

    def __init__(self, name: str, config: Any, episode: Verifiers) -> None:
        self._name, self._config, self._episode = name, config, episode
        self.trainable = True

    async def run(self, task: Any, **resources: Any) -> Any:
        """One answer to a task's prompt. Its trace."""
        async with self.interaction(task, **resources) as interaction:
            await interaction.turn()
        return interaction.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **resources: Any) -> AsyncIterator[Interaction]:
        """A conversation about a task, which is scored at its end."""
        import verifiers.v1 as vf

        info = vf.AgentInfo(config=self._config, name=self._name)
        trace = vf.Trace(task=_trace_task(task), agent=info)
        await task.setup(trace, None)
        yield Interaction(task, trace, self._episode)
        trace.stop("user_closed")
        trace.is_completed = trace.ok = True
        await task.finalize(trace, None)
        await task.score(trace)
        self._episode.add(trace)


class Interaction:
    """Turns of the policy, as the program sees them."""

    def __init__(self, task: Any, trace: Any, episode: Verifiers) -> None:
        self._task, self.trace, self._episode = task, trace, episode

    async def turn(self, message: Any = None) -> Any:
        """Say something to the policy, or nothing where the task's prompt begins. Its answer as a segment."""
        import verifiers.v1 as vf

        messages = self._opening() if not self.trace.nodes else []
        if message is not None:
            messages += [vf.UserMessage(content=message)] if isinstance(message, str) else list(message)
        for each in messages:
            self._add(each, sampled=False)
        text = await self._episode.ask("\n\n".join(_text(each) for each in messages))
        answer = vf.AssistantMessage(content=text)
        self._add(answer, sampled=True)
        return vf.Segment(messages=[answer], root_reply=text)

    def _opening(self) -> list[Any]:
        import verifiers.v1 as vf

        data = self._task.data
        prompt = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else list(data.prompt or ())
        return [vf.SystemMessage(content=data.system_prompt), *prompt] if data.system_prompt else prompt

    def _add(self, message: Any, sampled: bool) -> None:
        import verifiers.v1 as vf

        nodes = self.trace.nodes
        nodes.append(vf.MessageNode(parent=len(nodes) - 1 if nodes else None, message=message, sampled=sampled))


def _trace_task(task: Any) -> Any:
    import verifiers.v1 as vf

    return vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)


def _text(message: Any) -> str:
    """The text of a message. NotAStep if it holds anything else."""
    if not isinstance(message.content, str):
        raise NotAStep("a message of the environment is no text alone")
    return message.content
