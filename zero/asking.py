"""How a run asks its questions and samples the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zero.environments.settings import EpisodeSettings
from zero.errors import InputError
from zero.models.load import configured_ends
from zero.questions import QuestionSet
from zero.records import Question, Sampling
from zero.template import AnyTemplate, SourceTemplates, seeing
from zero.vision import Vision

Config = Mapping[str, Any]


def make_sampling(settings: Config, model: Config, template: AnyTemplate, tokenizer: Any) -> Sampling:
    """How completions are drawn: the template's and the model's stop strings, the model's stop tokens."""
    ids = {tokenizer.eos_token_id} | configured_ends(model)
    vocabulary = tokenizer.get_vocab()
    for token in model["stop"]:
        if token not in vocabulary:
            raise InputError("model.stop", token, "the tokenizer has no such token; correct or remove it")
        ids.add(vocabulary[token])
    stop_ids = tuple(sorted(i for i in ids if i is not None))
    if not stop_ids and not template.stop:
        raise InputError("model.stop", "[]", "nothing would ever end a response; name a token that does")
    stop = tuple(dict.fromkeys((*template.stop, *model["stop_text"])))
    return Sampling(**settings, stop=stop, stop_ids=stop_ids)


def source_templates(template: AnyTemplate, questions: QuestionSet, model: Config) -> AnyTemplate:
    """The template that asks the questions of a set: the run's, and those that its sources bring of their own."""
    if not questions.settings:
        return template
    own = {name: settings.template for name, settings in questions.settings.items() if settings.template}
    stops = {name: tuple(dict.fromkeys((*own[name].stop, *model["stop_text"]))) for name in own}
    budgets = {name: settings.max_tokens for name, settings in questions.settings.items() if settings.max_tokens}
    return SourceTemplates(template, own, stops, budgets)


def asking_template(
    template: AnyTemplate,
    model: Config,
    environment: EpisodeSettings | None,
    tokenizer: Any,
    vision: Vision | None = None,
    questions: QuestionSet | None = None,
) -> AnyTemplate:
    """The run's template, or that of a set with the templates of its sources, with the environment's tools in their prompts;
    `vision` is the model's."""
    template = template if questions is None else source_templates(template, questions, model)
    template = seeing(template, vision)
    return environment.listing_tools(template, tokenizer) if environment else template


def first_of_each_template(questions: QuestionSet) -> list[Question]:
    """The first training row, and that of each source with a template of its own."""
    own = [name for name, settings in questions.settings.items() if settings.template]
    rows = questions.rows.train
    return [rows[0], *(next(row for row in rows if row.kind == name) for name in own if rows[0].kind != name)]
