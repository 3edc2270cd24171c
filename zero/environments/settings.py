"""`environment` of the config: in which environment a response is an episode, and when episodes end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zero.config.functions import function_at
from zero.environments import Observation
from zero.environments.live import Transcript
from zero.environments.pool import play
from zero.environments.spec import EnvironmentSpec, environment_spec
from zero.environments.tool_prompt import with_tools
from zero.environments.tools import ToolEnvironment
from zero.errors import InputError
from zero.records import Question, Sampling
from zero.template import AnyTemplate

SLOT = "{observation}"
SEEDS = "one that draws its task needs rows with its seeds, docs/environments.md"


@dataclass(frozen=True)
class EpisodeSettings:
    """What an engine needs to know of episodes.

    spec         the environment
    turns        at most, in an episode
    turn_tokens  of a turn, at most; None: what the episode has left
    least        tokens that must be left for another turn to begin
    say          text of an observation that goes on, with {observation}: as it is, or as the user's turn of a chat
    checked      whether the last turn is an answer that the questions' checker grades; else the environment knows
    tools        schemas of what the policy may call, and how often in a turn; `stop`: strings that end a turn of calls
    """

    spec: EnvironmentSpec
    turns: int
    turn_tokens: int | None
    least: int
    say: str
    checked: bool
    tools: tuple[Mapping[str, Any], ...] = ()
    calls_per_turn: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if SLOT not in self.say:
            raise InputError("environment.say", self.say, f"must hold {SLOT}, where the environment's words go")

    def refuse_others(self, rows: Sequence[Question]) -> None:
        """InputError for a row with which no episode of this environment can begin: one of each kind and level is tried."""
        rows = list({(row.kind, row.level): row for row in reversed(rows)}.values())
        for row, reply in zip(rows, play([Transcript(self.spec, row, 0) for row in rows]), strict=True):
            problem = reply.error
            if reply.step is not None:
                first = reply.step.observation
                text = first.text if isinstance(first, Observation) else first
                problem = "" if text == row.text else f"its first observation is another text, {text[:60]!r}; {SEEDS}"
            if problem:
                remedy = f"cannot begin with question {row.id} ({problem}); choose questions of this environment"
                raise InputError("environment.make", self.spec.path, remedy)

    def first_turn(self, sampling: Sampling) -> Sampling:
        """How the first turn is sampled: what a prompt must leave room for."""
        return replace(sampling, max_tokens=min(sampling.max_tokens, self.turn_tokens or sampling.max_tokens))

    def listing_tools(self, template: AnyTemplate, tokenizer: Any) -> AnyTemplate:
        """The template with the tools that the policy may call in its prompt."""
        if not self.tools:
            return template
        return with_tools(template, self.tools, self.calls_per_turn, self.stop, tokenizer)


def episode_settings(
    make: Mapping[str, Any] | None = None,
    turns: int = 10,
    turn_tokens: int | None = None,
    least: int = 4,
    say: str = f"\n{SLOT}\n",
    checked: bool = False,
    **limits: Any,
) -> EpisodeSettings | None:
    """The settings of conf/environment; None without an environment: a question has one answer. `limits`: see
    `environment_spec`. Raises InputError."""
    if make is None:
        return None
    settings = EpisodeSettings(environment_spec(make, **limits), turns, turn_tokens, least, say, checked)
    factory = function_at(settings.spec.path, "environment.make._target_")
    if not (isinstance(factory, type) and issubclass(factory, ToolEnvironment)):
        return settings
    one = factory(**json.loads(settings.spec.settings))
    return replace(settings, tools=tuple(one.schemas), calls_per_turn=one.calls_per_turn, stop=one.stop)
