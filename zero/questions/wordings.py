"""The words of a route: SFTvsRL's, and those that the embedded tokenizer has; both also for views, whose landmarks can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from zero.questions.crossings import COLOURS, SHAPES, SIGNS


@dataclass(frozen=True)
class Wording:
    """Texts with their slots in braces."""

    text: str  # the prompt: {instruction}, {actions}, and {observations} once
    numbered: str  # a sentence of the instruction: {n}, {sentence}
    first_turn: str  # {side}, {direction}
    turn: str
    ahead: str  # to a crossing without a landmark
    ahead_to: str  # {landmark}
    ahead_to_the_end: str
    seen: str  # a landmark at a crossing: {name}, {side}
    seen_at_the_end: str
    sides: int  # how many of the sides a landmark may be on
    observation: str  # {landmark}, {crossing}
    nothing: str  # on the road
    nothing_at_a_crossing: str
    crossing: str
    pair: str  # an earlier observation with its action: {n}, {observation}, {action}
    current: str  # {n}, {observation}
    history: int | None  # pairs that a prompt shows; None: all
    absolute: tuple[str, ...]  # eight directions, from north clockwise
    relative: tuple[str, str, str, str]  # left, right, slightly left, slightly right
    turn_action: str  # {direction}
    forward_action: str
    stop_action: str
    actions: tuple[str, str]  # the list of actions under the absolute rule and under the relative one: {turns}
    solution: str  # the text of a right turn: {observation}, {instruction}, {action}
    failures: Mapping[str, str]  # what is wrong with an answer -> the verifier's message
    landmarks: tuple[str, ...]


COMPASS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
_ACTIONS = (
    '"forward()": indicates moving forward one step\n"turn_direction(x)": indicates adjust the ego agent direction towards x '
    'direction. x could be any following {directions}\n"stop()": indicates the navigation is finished.'
)
_FORM = """

[Output]
{
  "current observation": latest observation from the streetview grid,
  "current instruction": analyze the full instruction and identify the sentence to be executed,
  "action": the action to be taken chosen from the action space,
}"""
_FAILED = "You failed this trial because {reason} and try again in the same format:" + _FORM
_KINDS = (
    "Cafe",
    "Bakery",
    "Hotel",
    "Museum",
    "Library",
    "Theater",
    "Pharmacy",
    "Bank",
    "Diner",
    "Church",
    "School",
    "Market",
)
_NAMES = ("Amber", "Birch", "Cedar", "Delta", "Elm", "Falcon", "Granite", "Harbor", "Iris", "Jade", "Lotus", "Maple")

SFTVSRL = Wording(
    text="""[Task Description]
You are an expert in navigation. You will receive a sequence of instructions to follow. You
are also provided with your observation and action history in text. Your goal is to first analyze the instruction and \
identify the next sentence to be executed.\x20
Then, you need to provide the action to be taken based on the current observation and instruction.

[Instruction]
{instruction}

[Action space]
{actions}

[Observations and actions sequence]
{observations}

[Output]
{
  "current observation": latest observation from the observation sequence,
  "current instruction": analyze the full instruction and identify the sentence to be executed,
  "action": the action to be taken chosen from the action space,
}""",
    numbered="{n}. {sentence}\n",
    first_turn="First, turn {side} to face {direction}.",
    turn="Turn {side} to face {direction}.",
    ahead="Move forward until you reach next intersection.",
    ahead_to="Move forward until you reach next intersection where {landmark}.",
    ahead_to_the_end="Move forward until you reach destination where {landmark}.",
    seen="{name} is on your {side}",
    seen_at_the_end="The destination {name} is on your {side}",
    sides=4,
    observation="{landmark}; {crossing}",
    nothing="No landmarks nearby",
    nothing_at_a_crossing="No landmark nearby",
    crossing="You observe an intersection",
    pair="O_{n}: {observation}\nA_{n}: {action}\n",
    current="O_{n}: {observation}\nA_{n}: \n",
    history=None,
    absolute=COMPASS,
    relative=("left", "right", "slightly left", "slightly right"),
    turn_action="turn_direction({direction})",
    forward_action="forward()",
    stop_action="stop()",
    actions=(
        _ACTIONS.replace("{directions}", f"8 directions {list(COMPASS)}"),
        _ACTIONS.replace("{directions}", "['left', 'right', 'slightly left', 'slightly right']"),
    ),
    solution="""{
  "current observation": "{observation}",
  "current instruction": "{instruction}",
  "action": "{action}",
}""",
    failures={
        "action": _FAILED.replace("{reason}", "you make incorrect action. Please avoid this action"),
        "crossing": _FAILED.replace("{reason}", "you are at an intersection. Please avoid this observation"),
        "no_crossing": _FAILED.replace("{reason}", "you are not at any intersection. Please avoid this observation"),
        # theirs has a penalty for it, and no message
        "instruction": _FAILED.replace("{reason}", "this instruction is not the next one. Please avoid it"),
    },
    landmarks=tuple(f"{name} {kind}" for kind in _KINDS for name in _NAMES),
)

# Three legs fit into 110 tokens of the embedded tokenizer, an answer into 8
EMBEDDED = Wording(
    text="{instruction}Say {actions}.{observations}",
    numbered="{sentence} ",
    first_turn="Use {side}, {direction}.",
    turn="Use {side}, {direction}.",
    ahead="Then cross.",
    ahead_to="Then {landmark}.",
    ahead_to_the_end="Then {landmark}, stop.",
    seen="{name} {side}",
    seen_at_the_end="{name} {side}",
    sides=2,
    observation="{landmark}",
    nothing="road",
    nothing_at_a_crossing="cross",
    crossing="",
    pair=" here {observation}, {action}.",
    current=" here {observation}?",
    history=1,
    absolute=("N", "NE", "E", "SE", "S", "SW", "W", "NW"),
    relative=("more left", "more right", "left", "right"),
    turn_action="{direction}",
    forward_action="go",
    stop_action="stop",
    actions=("{turns}", "{turns}"),
    solution="{action}",
    failures=dict.fromkeys(("action", "crossing", "no_crossing", "instruction"), "No."),
    landmarks=("Tom", "Ann", "Sam", "Lily", "Ben", "Mia", "apples", "books", "coins", "shells", "pens", "friend"),
)

# As theirs the prompt shows what is seen now as an image, and what was seen before as text
SFTVSRL_VIEWS = replace(
    SFTVSRL,
    text=SFTVSRL.text.replace(
        "of instructions to follow.",
        "of instructions to follow while observing the street from above, your way upwards.",
    ),
    landmarks=tuple(f"{colour.capitalize()} {shape.capitalize()}" for shape in SHAPES for colour in COLOURS),
)

# An answer says what is seen before it acts: up to 8 tokens
EMBEDDED_VIEWS = replace(EMBEDDED, solution="{observation}.\n{action}", landmarks=tuple(SIGNS))
