"""Question -> exact prompt -> answer. A template is a text with a `{question}` slot, stop strings and an extractor.

The texts are in conf/template/*.yaml. An extractor takes the response alone, never the prompt, which may hold example tags;
it returns the answer, or None if the response has none in the form that the template asks for. All extractors are total
and linear in the response.

Departures from the paper's code (arXiv 2503.20783, understand_r1_zero `boxed_reward_fn`, `answer_tag_reward_fn`):
any whitespace may stand between `</think>` and `<answer>` (theirs demands one space), text after `</answer>` is no part
of the answer, and an escaped brace such as `\\{` does not count when the braces of a box are matched. Departures from
other systems are in the yaml of each template.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zero.errors import InputError
from zero.prompt_text import encode, image_prompt, marked_as_data, segments, with_placeholders
from zero.prose import first_number, prose_answer
from zero.records import Prompt, Question
from zero.vision import Vision

Extract = Callable[[str], str | None]

SLOT = "{question}"

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character is one token, so that it is never a brace
_TAGGED = re.compile(r"</think>\s*<answer>")
_OPEN, _CLOSE = "<answer>", "</answer>"
_FORMULA = re.compile(r"""["']formula["']\s*:""")
_FIELD = re.compile(r"""\s*(?:"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'|(?P<bare>[^"'\s,}][^\n,}]*))""")
_ARITHMETIC = re.compile(
    r"(?<!\\)[0-9(](?:[0-9()+*/=.\u00d7\u00f7\u2212 \t-]|\\(?:times|div|cdot|left|right)(?![A-Za-z]))*"
)
_OPERATION = re.compile(r"[0-9)]\s*(?:[+*/\u00d7\u00f7\u2212-]|\\(?:times|div|cdot))\s*(?:\\left\s*)?[0-9(]")


@dataclass(frozen=True)
class Template:
    """A prompt as plain text. `text` holds `{question}`; the stop strings stay in the response. `vision` is the model's, if it
    sees. Raises InputError."""

    name: str
    text: str
    extract: Extract
    stop: Sequence[str] = ()
    vision: Vision | None = None

    def __post_init__(self) -> None:
        _check_slot("template.text", self.text)
        object.__setattr__(self, "stop", tuple(self.stop))

    def prompt(self, question: Question, tokenizer: Any, key: tuple[int, ...]) -> Prompt:
        """The question in its exact prompt, tokenized once; `tokenizer` is any Hugging Face tokenizer."""
        if question.images:
            assert self.vision, "build refuses images for a model of text alone"
            before, _, after = self.text.partition(SLOT)
            shown = with_placeholders(question.text, len(question.images), self.vision)
            pieces = [(before, False), *shown, (after.replace(SLOT, question.text), False)]
            return image_prompt(question, pieces, tokenizer, key, self.vision, self.name)
        text = self.text.replace(SLOT, question.text)  # never str.format: `\\boxed{}` and the question hold braces
        return Prompt(question, text, encode(text, tokenizer, question.text), key)


@dataclass(frozen=True)
class ChatTemplate:
    """The model's own chat format. `user` (and `system`, left out if empty) hold `{question}`. Raises InputError.

    `prefill` begins the assistant's turn; the response continues it. `variables` are passed to the model's chat template,
    which may otherwise fill in some by the clock, such as the date. `vision` is the model's, if it sees.
    """

    name: str
    extract: Extract
    user: str = SLOT
    system: str = ""
    prefill: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    stop: Sequence[str] = ()
    vision: Vision | None = None

    def __post_init__(self) -> None:
        _check_slot("template.user", self.user)
        object.__setattr__(self, "stop", tuple(self.stop))

    def prompt(self, question: Question, tokenizer: Any, key: tuple[int, ...]) -> Prompt:
        """The question as the user's turn, up to where the assistant's begins. InputError without a chat template."""
        if not getattr(tokenizer, "chat_template", None) and not (self.vision and self.vision.chat_template):
            remedy = "the tokenizer of this model has no chat template; choose template=none, qwen_math or r1"
            raise InputError("template", self.name, remedy)
        turns = [("system", self.system)] if self.system else []
        turns.append(("user", self.user))
        text = self._rendered(
            [(role, self._content(text, question, role == "user")) for role, text in turns], tokenizer
        )
        text += self.prefill  # no turn of its own: many chat templates close, trim or rewrite a turn of the assistant
        if question.images:
            assert self.vision, "build refuses images for a model of text alone"
            pieces = marked_as_data(text, question.text, len(question.images))
            return image_prompt(question, pieces, tokenizer, key, self.vision, self.name)
        return Prompt(question, text, encode(text, tokenizer, question.text), key)

    def _content(self, text: str, question: Question, shows: bool) -> Any:
        """A turn's text; with images a list of parts."""
        before, slot, after = text.partition(SLOT)
        if not (slot and shows and question.images):
            return text.replace(SLOT, question.text)
        first, *others = segments(question.text, len(question.images))
        texts = [before + first, *others]
        texts[-1] += after.replace(SLOT, question.text)
        content = [{"type": "text", "text": texts[0]}]
        for shown_after in texts[1:]:
            content += [{"type": "image"}, {"type": "text", "text": shown_after}]
        return [item for item in content if item.get("text") != ""]

    def rendered(self, turns: Sequence[tuple[str, Any]], tokenizer: Any) -> Any:
        """Turns (role, content) in the model's chat format, up to where the assistant's begins. Raises whatever that program does.

        A model that sees is given lists of parts, since chat templates of such models may take nothing else.
        """
        own = {"chat_template": self.vision.chat_template} if self.vision and self.vision.chat_template else {}
        messages = [
            {
                "role": role,
                "content": [{"type": "text", "text": text}] if self.vision and isinstance(text, str) else text,
            }
            for role, text in turns
        ]
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **own, **self.variables
        )

    def _rendered(self, turns: Sequence[tuple[str, Any]], tokenizer: Any) -> str:
        """The turns as text. InputError for any error of the model's chat template, which is somebody else's program."""
        from jinja2 import TemplateSyntaxError

        other = "choose template=none, qwen_math or r1, or mend chat_template in tokenizer_config.json"
        try:
            text = self.rendered(turns, tokenizer)
        except TemplateSyntaxError as error:
            remedy = f"the model's chat template is broken (line {error.lineno}: {error.message}); {other}"
            raise InputError("template", self.name, remedy) from error
        except Exception as error:  # of jinja2, of transformers, or of what the template itself computes
            reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            if self.system:
                remedy = (
                    f"the model's chat template refuses these turns ({reason}); many know no system turn: set it to ''"
                )
                raise InputError("template.system", self.system, remedy) from error
            remedy = f"the model's chat template cannot render a user's turn ({reason}); {other}"
            raise InputError("template", self.name, remedy) from error
        if not isinstance(text, str) or not text:
            raise InputError("template", self.name, f"the model's chat template renders nothing; {other}")
        return text


@dataclass(frozen=True)
class SourceTemplates:
    """The templates of a mixture: those of sources that bring their own, else the run's. `budgets` are the sources' own token
    budgets; `stops` the stop strings of their templates, with the model's."""

    default: AnyTemplate
    own: Mapping[str, AnyTemplate]
    stops: Mapping[str, tuple[str, ...]]
    budgets: Mapping[str, int]

    @property
    def name(self) -> str:
        """Of the run's template."""
        return self.default.name

    @property
    def extract(self) -> Extract:
        """Of the run's template; the grader knows those of the sources."""
        return self.default.extract

    @property
    def stop(self) -> Sequence[str]:
        """Of the run's template."""
        return self.default.stop

    def prompt(self, question: Question, tokenizer: Any, key: tuple[int, ...]) -> Prompt:
        """The question as its source asks it."""
        prompt = self.own.get(question.kind, self.default).prompt(question, tokenizer, key)
        return replace(prompt, max_tokens=self.budgets.get(question.kind), stop=self.stops.get(question.kind))


AnyTemplate = Template | ChatTemplate | SourceTemplates


def seeing(template: AnyTemplate, vision: Vision | None) -> AnyTemplate:
    """The template for a model that sees, or for one that does not (None)."""
    if isinstance(template, SourceTemplates):
        own = {name: seeing(one, vision) for name, one in template.own.items()}
        return replace(template, default=seeing(template.default, vision), own=own)
    return replace(template, vision=vision)


def joined(template: AnyTemplate, other: AnyTemplate | None, key: str) -> AnyTemplate:
    """A template that also knows the sources of another set. InputError on `key` for a source that the two ask differently."""
    if not isinstance(other, SourceTemplates):
        return template
    if not isinstance(template, SourceTemplates):
        return other
    for name in template.own.keys() & other.own.keys():
        one, two = (vars(known.own[name]) | {"extract": None} for known in (template, other))
        if one != two:
            remedy = "sources of this name have two templates, and an environment goes on in one; rename one of them"
            raise InputError(key, name, remedy)
    return replace(template, own={**template.own, **other.own})


def _check_slot(key: str, text: str) -> None:
    if SLOT not in text:
        raise InputError(key, text, f"must hold {SLOT}, where the question goes")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, without outer whitespace; the innermost if nested.

    None if there is no box or the last one never closes. `\boxed 5` and `\fbox{5}` are no boxes.
    """
    start = text.rfind("\\boxed")
    while start >= 0:
        if box := _BOX.match(text, start):
            return _until_closed(text, box.end())
        start = text.rfind("\\boxed", 0, start)
    return None


def _until_closed(text: str, start: int) -> str | None:
    """The text from `start` up to the brace that closes the one just before `start`."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()].strip()
    return None


def answer_tag(text: str) -> str | None:
    r"""R1 form: `</think>`, whitespace, then the last closed `<answer>...</answer>`; a `\boxed{}` inside is unwrapped.

    The prompt ends with `<think>`, so that the response only closes it. None if any part is missing, or if a box inside
    never closes.
    """
    tagged = _TAGGED.search(text)
    return _last_tag(text, tagged.start()) if tagged else None


def last_answer_tag(text: str) -> str | None:
    r"""The last closed `<answer>...</answer>`, wherever it stands; a `\boxed{}` inside is unwrapped.

    None if there is no closed one, or if a box inside never closes. TinyZero and oat-zero read the last line alone.
    """
    return _last_tag(text)


def answer_tag_boxed(text: str) -> str | None:
    r"""Open-Reasoner-Zero's form: the last `\boxed{...}` inside the last closed `<answer>...</answer>`; None without it."""
    inside = _inside_last_tag(text)
    return None if inside is None else last_boxed(inside)


def _last_tag(text: str, start: int = 0) -> str | None:
    answer = _inside_last_tag(text, start)
    return last_boxed(answer) if answer is not None and "\\boxed" in answer else answer


def _inside_last_tag(text: str, start: int = 0) -> str | None:
    closed = text.rfind(_CLOSE, start)
    opening = text.rfind(_OPEN, start, closed) if closed >= 0 else -1
    if opening < 0:
        return None
    opening += len(_OPEN)
    return text[opening : text.find(_CLOSE, opening)].strip()  # up to the first that closes it


def formula_field(text: str) -> str | None:
    """SFTvsRL's form, JSON or nearly: the value of the last `"formula": '...'`, with its `= 24` if it ends so.

    With either kind of quotes or none; the JSON around it may be broken. None if there is no such field, if its value is
    empty, or if a quote is not closed on its line.
    """
    fields = deque(_FORMULA.finditer(text), maxlen=1)
    value = _FIELD.match(text, fields[0].end()) if fields else None
    if value is None:
        return None
    return (value["double"] or value["single"] or value["bare"] or "").strip() or None


def boxed_or_last_number(text: str) -> str | None:
    """For text in any form: the last box, else the number after the last `####` (the style of GSM8K), else the answer of the
    prose (zero.prose): `The answer is 2x+3`, or the last number: 72, 1,234.5, -3, .5 or 3/4. None without any of these."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    _, marker, after = text.rpartition("####")
    number = first_number(after) if marker else None
    return number or prose_answer(text)


def extract_any(text: str) -> str | None:
    """For instruct models, which may follow a question that asks for tags: the last closed `<answer>...</answer>`, else
    as `boxed_or_last_number`."""
    tagged = _last_tag(text)
    return boxed_or_last_number(text) if tagged is None else tagged


def last_expression(text: str) -> str | None:
    """For instruct models on Countdown: the last closed `<answer>...</answer>`, else the last box, else the last run of
    arithmetic on the last line that has one, with its `= 36` if it ends so. None if there is no arithmetic either."""
    for answer in (_last_tag(text), last_boxed(text)):
        if answer is not None:
            return answer
    for line in reversed(text.splitlines()):
        runs = [run.group().rstrip(" .=\t") for run in _ARITHMETIC.finditer(line)]
        runs = [run for run in runs if _OPERATION.search(run)]
        if runs:
            return runs[-1]
    return None


def last_code_block(text: str) -> str | None:
    """The text of the last fenced block that is closed: three backticks begin a line, and another such line ends it."""
    block: str | None = None
    lines: list[str] | None = None
    for line in text.split("\n"):
        if not line.lstrip().startswith("```"):
            if lines is not None:
                lines.append(line)
        elif lines is None:
            lines = []
        else:
            block, lines = "\n".join(lines), None
    return block


def code_in_any_form(text: str) -> str | None:
    """For programs: the last closed block, else the last closed `<answer>...</answer>`, else the whole response, unless
    it is empty: base models go on where the question ends."""
    block = last_code_block(text)
    if block is None:
        block = _last_tag(text)
    return block if block is not None else text if text.strip() else None
