"""Games for one player of TextArena (an extra, `textarena`): {_target_: zero.environments.textarena.TextArena, game: NAME}.

The policy reads each message of the game once. A game gives its reward at the end: 1 is a win, less is partial credit.
"""

from __future__ import annotations

from typing import Any, ClassVar

from zero.environments import Step
from zero.records import Question

RAW = "-raw"  # without the package's wrappers, which repeat all that was said in every observation


class TextArena:
    """A game by its name in the package's registry, such as "GuessTheNumber-v0", with the game's own settings.

    A row's meta["seed"] fixes the game; else the episode's seed does. A move that the rules forbid is an "invalid_action".
    """

    isolated: ClassVar[bool] = True
    package: ClassVar[str] = "textarena"
    modules: ClassVar[tuple[str, ...]] = ("textarena",)

    def __init__(self, game: str, **settings: Any) -> None:
        import textarena

        self._kinds = textarena.ObservationType
        self._game = textarena.make(game if game.endswith(RAW) else game + RAW, **settings)

    def reset(self, row: Question, seed: int) -> str:
        """The rules, and the board if there is one."""
        self._game.reset(num_players=1, seed=row.meta.get("seed", seed))
        return self._messages()[0]

    def step(self, text: str) -> Step:
        """The game's answer to a move."""
        done, _ = self._game.step(text)
        if done:
            rewards, info = self._game.close()
            reward = float(rewards[0])
            return Step("", reward, True, reward >= 1, "invalid_action" if info[0].get("invalid_move") else "")
        observation, valid = self._messages()
        return Step(observation, 0.0, False, kind="" if valid else "invalid_action")

    def _messages(self) -> tuple[str, bool]:
        """What the game has said since the last turn, and whether it accepted that."""
        _, messages = self._game.get_observation()
        kinds = [kind for _, _, kind in messages]
        texts = [text for _, text, kind in messages if kind is not self._kinds.PLAYER_ACTION]
        return "\n".join(texts), self._kinds.GAME_ADMIN not in kinds
