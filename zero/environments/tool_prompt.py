"""Tools in a prompt: in the words of the model's own chat template where it has any, else in a block of text.

Chat templates differ in whether they list tools and in whether they know the role of a tool, and say nothing of either: both are
tried. Pieces are those of zero.prompt_text.encode_pieces: (text, whether it is data), since a result may hold control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zero.environments.tool_calls import CLOSE, OPEN, RESULT_CLOSE, RESULT_OPEN, results_of
from zero.errors import InputError
from zero.template import SLOT, AnyTemplate, SourceTemplates, Template

_TURN, _RESULT, _TOOL = "THE-TURN", "THE-RESULT-{}-", "the_tool_of_a_try"
_TRIED = {"name": _TOOL, "description": "a try", "parameters": {"type": "object", "properties": {}}}


def takes_tools(tokenizer: Any, variables: Mapping[str, Any]) -> bool:
    """Whether the tokenizer's chat template lists the tools that it is given."""
    if not getattr(tokenizer, "chat_template", None):
        return False
    tools = [{"type": "function", "function": _TRIED}]
    return _TOOL in _rendered(tokenizer, [("user", "?")], {**variables, "tools": tools})


def tools_block(schemas: Sequence[Mapping[str, Any]], calls_per_turn: int = 1) -> str:
    """The tools and the form of a call as a text, for prompts without a chat template that lists them."""
    lines = "\n".join(json.dumps(schema["function"], ensure_ascii=False) for schema in schemas)
    often = "one call" if calls_per_turn == 1 else f"up to {calls_per_turn} calls"
    return (
        f"You can call these tools:\n<tools>\n{lines}\n</tools>\n"
        f"Write {often} at a time in this form, and then wait for the result in {RESULT_OPEN}{RESULT_CLOSE}:\n"
        f'{OPEN}\n{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}\n{CLOSE}\n'
        "When you need no more calls, answer without one."
    )


def with_tools(
    template: AnyTemplate,
    schemas: Sequence[Mapping[str, Any]],
    calls_per_turn: int,
    stop: Sequence[str],
    tokenizer: Any,
) -> AnyTemplate:
    """A template that lists the tools, in the words of the model's chat template or in a block before the question (of a chat: in
    the system turn), and whose responses end with `stop`, too."""
    if isinstance(template, SourceTemplates):
        own = {name: with_tools(one, schemas, calls_per_turn, stop, tokenizer) for name, one in template.own.items()}
        stops = {name: (*texts, *stop) for name, texts in template.stops.items()}
        default = with_tools(template.default, schemas, calls_per_turn, stop, tokenizer)
        return replace(template, default=default, own=own, stops=stops)
    stops_here = (*template.stop, *stop)
    block = tools_block(schemas, calls_per_turn)
    if isinstance(template, Template):
        return replace(template, text=template.text.replace(SLOT, f"{block}\n\n{SLOT}", 1), stop=stops_here)
    if takes_tools(tokenizer, template.variables):
        return replace(template, variables={**template.variables, "tools": list(schemas)}, stop=stops_here)
    return replace(template, system=f"{template.system}\n\n{block}".lstrip(), stop=stops_here)


def results_turn(tokenizer: Any, observation: str, variables: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Pieces of the text between two turns of the assistant, of an observation of a ToolEnvironment: its results in the role of a
    tool, if the chat template knows tools and that role, else in a user's turn and with tags.

    InputError if the chat template has no such conversation at all.
    """
    results = results_of(observation)
    slots = [_RESULT.format(number) for number in range(len(results))]
    tagged = "\n".join(f"{RESULT_OPEN}\n{slot}\n{RESULT_CLOSE}" for slot in slots)
    as_tool = [[("tool", slot) for slot in slots]] if takes_tools(tokenizer, variables) else []
    for turns in [*as_tool, [("user", tagged)]]:
        text = _rendered(tokenizer, [("user", "?"), ("assistant", _TURN), *turns], variables)
        between = text.rpartition(_TURN)[2]
        if _TURN in text and all(between.count(slot) == 1 for slot in slots):
            return _filled(between, slots, results)
    remedy = "the model's chat template has no turn after the assistant's; choose a template of plain text"
    raise InputError("template", tokenizer.name_or_path, remedy)


def _filled(text: str, slots: Sequence[str], results: Sequence[str]) -> list[tuple[str, bool]]:
    """The text with results in place of their slots, which stand in it in order or the template is no chat."""
    pieces: list[tuple[str, bool]] = []
    for slot, result in zip(slots, results, strict=True):
        before, _, text = text.partition(slot)
        pieces += [(before, False), (result, True)]
    return [*pieces, (text, False)]


def _rendered(tokenizer: Any, turns: Sequence[tuple[str, str]], variables: Mapping[str, Any]) -> str:
    """A conversation in the tokenizer's chat format; empty where the format refuses it."""
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
    except Exception:  # the template is a program from elsewhere, and many raise for roles that they do not know
        return ""
    return text if isinstance(text, str) else ""
