"""What the page of algorithms says and shows: cards from conf/algo and docstrings, the text, the figure."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zero.config.check import check
from zero.paths import CONF

FUNCTIONS = ("advantage", "estimator", "critic", "weight", "surrogate", "correction")  # in the order of a page
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a63d87", "#7a5c00", "#56b4e9")  # told apart by colour-blind eyes, too
GREY = "#8a8a8a"


@dataclass(frozen=True)
class Part:
    """One function of an algorithm. `says` is the sentence with its equation, `notes` what its docstring adds."""

    slot: str
    target: str  # dotted path
    call: str  # its name and arguments
    says: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """All that the code says of one algorithm."""

    name: str
    header: str
    family: str
    parts: tuple[Part, ...]
    extras: tuple[
        tuple[str, str, str], ...
    ]  # setting, value, what it means: where it differs from conf/parts/algo.yaml
    papers: tuple[str, ...]  # keys of the sources that the header names
    sources: tuple[str, ...]  # these, and what each function cites first

    @property
    def calls(self) -> dict[str, str]:
        return {part.slot: part.call for part in self.parts}


# -------------------------------------------------------------------------------------------------------------- the cards


def cards(names: Sequence[str]) -> list[Card]:
    """A card for each option of conf/algo, those of one family together, the default algorithm's family first."""
    default = card(default_name(), None)
    made = [card(name, default) for name in names]
    order = list(dict.fromkeys(made_card.family for made_card in [card(default.name, default), *made]))
    return sorted(made, key=lambda one: order.index(one.family))


def card(name: str, default: Card | None) -> Card:
    """What conf/algo/NAME.yaml and the docstrings of its functions say; `default` decides what it is grouped with."""
    path = CONF / "algo" / f"{name}.yaml"
    algo, raw = check("train", [f"algo={name}"])["algo"], read(path)
    parts = tuple(part(slot, algo[slot], raw.get(slot)) for slot in slots(algo))
    common = CONF / "parts" / "algo.yaml"
    comments = dict(re.findall(r"^(\w+):.*?\s#\s*(.*)$", common.read_text(), flags=re.MULTILINE))
    extras = tuple(
        (key, shown(algo[key]), comments.get(key, ""))
        for key, usual in read(common).items()
        if key not in FUNCTIONS and algo[key] != usual
    )
    words = header(path)
    papers = tuple(key for key, text in sources().items() if named(text, words))
    cited = [key for one in parts for key in re.findall(r"\[(\w+)\]", " ".join((one.says, *one.notes)))[:1]]
    keys = tuple(dict.fromkeys([*papers, *(key for key in cited if key in sources())]))
    return Card(name, words, family(algo, parts, default), parts, extras, papers, keys)


def slots(algo: Mapping[str, Any]) -> list[str]:
    """The functions that an algorithm has; the KL only where it is in use."""
    return [slot for slot in (*FUNCTIONS, "kl") if algo[slot] and (slot != "kl" or algo["beta"] or algo["measure_kl"])]


def part(slot: str, config: Mapping[str, Any], raw: Any) -> Part:
    """A function with the arguments that its yaml gives it. One that stands in a yaml of its own is shown as that says."""
    target = config["_target_"]
    own = raw if isinstance(raw, dict) else option_of(slot, target)
    given = {key: value for key, value in own.items() if not key.startswith("_") and key != "defaults"}
    module, name = target.rsplit(".", 1)
    thing = getattr(importlib.import_module(module), name)
    text = inspect.getdoc(importlib.import_module(module) if inspect.isclass(thing) else thing) or ""
    silent = set(inspect.signature(thing).parameters) - given.keys()
    first, *rest = statements(text)
    notes = tuple(note for note in rest if not any(f"`{argument}`" in note for argument in silent))
    arguments = ", ".join(f"{key}={shown(value)}" for key, value in given.items())
    return Part(slot, target, f"{name}({arguments})" if arguments else name, first, notes)


def option_of(slot: str, target: str) -> dict[str, Any]:
    """The yaml of conf/SLOT that makes `target`."""
    files = [read(path) for path in sorted((CONF / slot).glob("*.yaml"))]
    return next((content for content in files if content.get("_target_") == target), {})


def family(algo: Mapping[str, Any], parts: Sequence[Part], default: Card | None) -> str:
    """Which algorithms are looked at side by side: by what says how good a response is, then by the loss."""
    if algo["critic"]:
        return "A critic tells the tokens of a response apart"
    if algo["min_group"] < 2:
        return "Siblings are not compared"
    calls = {one.slot: one.call for one in parts}
    if default is None or calls["surrogate"] == default.calls["surrogate"]:
        return f"Siblings are compared, surrogate {calls['surrogate']}"
    return "Siblings are compared, another surrogate"


def statements(docstring: str) -> list[str]:
    """A docstring's sentences, each with the citations that follow it."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        for sentence in re.split(r"(?<=\.)(?<!\bDr\.)\s+(?=[^\W\d_a-z]|[-`\[|])", " ".join(paragraph.split())):
            if sentence.startswith("[") and found:
                found[-1] += " " + sentence
            else:
                found.append(sentence)
    return found or [""]


@cache
def sources() -> dict[str, str]:
    """Citation key -> reference, from the head of zero/objective.py."""
    text = importlib.import_module("zero.objective").__doc__ or ""
    return dict(re.findall(r"^\s+\[(\w+)\]\s+(.+)$", text, flags=re.MULTILINE))


def named(reference: str, words: str) -> bool:
    """Whether a text names a paper: by its arXiv number, or by author and year if it has none."""
    numbers = re.findall(r"\d{4}\.\d{5}", reference)
    return any(number in words for number in numbers) if numbers else reference.split(",")[0] in words


def header(path: Path) -> str:
    """The comment at the head of a yaml file, as one paragraph that ends with a full stop."""
    lines = path.read_text().splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = " ".join(line.lstrip("# ") for line in lines[:count])
    return text if text.endswith(".") else text + "."


def read(path: Path) -> dict[str, Any]:
    """A yaml file as it stands, interpolations unresolved."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def default_name() -> str:
    """The algorithm of a run that names none."""
    return next(entry["algo"] for entry in read(CONF / "train.yaml")["defaults"] if "algo" in entry)


def shown(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        link = re.fullmatch(r"\$\{([\w.]+)\}", value)
        return link[1] if link else repr(value).replace("'", '"') if not value.isidentifier() else value
    return (
        f"{value:g}" if isinstance(value, float) else str(value).lower() if value in (True, False, None) else str(value)
    )


# --------------------------------------------------------------------------------------------------------------- the text


def markdown(made: Sequence[Card], numbers: Mapping[str, Any], own: Mapping[str, tuple[tuple[str, ...], str]]) -> str:
    """The whole page. `own` holds the settings in which an algorithm's runs differ, and why."""
    from zero import objective

    measured = numbers.get("algorithms", {})
    departure = re.search(r"Departures, in words: (.*?)(?:\n\n|\Z)", objective.__doc__ or "", flags=re.DOTALL)
    text = [
        "# The algorithms: what the code does, and what it gave",
        "`python -m analysis.docs` makes this page from `conf/algo`, the docstrings of "
        "[zero/objective.py](../zero/objective.py) and [algorithms.json](algorithms.json); "
        "`python -m analysis.algorithms run` measures. Edit those, not this.",
        *conditions(numbers),
        "![Held-out accuracy and response length of every algorithm against steps](algorithms.png)",
        table(made, measured),
        "## What each is made of",
        anatomy(made),
        "The loss is the sum over all response tokens of weight x (surrogate + beta x KL). "
        + (f"A departure of all: {' '.join(departure[1].split())}" if departure else ""),
    ]
    for i, one in enumerate(made):
        if i == 0 or one.family != made[i - 1].family:
            text.append(f"## {one.family}")
        text += section(one, measured.get(one.name), own.get(one.name))
    text += ["## Sources", "\n".join(f"- {key}: {linked(value)}" for key, value in sources().items())]
    text.append("\n".join(f"[{key}]: {address(value)}" for key, value in sources().items()))
    return "\n\n".join(text) + "\n"


def conditions(numbers: Mapping[str, Any]) -> list[str]:
    """Under which budget the numbers came about, and what the intervals mean."""
    if not numbers:
        return ["Nothing has been measured yet."]
    shared, all_of_them = numbers["budget"], numbers["algorithms"].values()
    counts = sorted({len(entry["seeds"]) for entry in all_of_them})
    cpus = sorted({cpu for entry in all_of_them for cpu in entry["cpu"]})
    seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    limit = shared["benchmarks"]["limit"]
    asked = f"the first {limit} held-out questions" if limit else "all held-out questions"
    return [
        f"**One budget for all:** model `{shared['model']['path']}`, questions `{shared['questions']['name']}`, {shared['steps']} "
        f"steps of {shared['responses']} responses of at most {shared['sampling']['max_tokens']} tokens, {shared['updates']} "
        f"update a step, learning rate {shared['optim']['lr']:g}, {seeds}. Accuracy and response length are those of {asked} "
        f"at temperature {shared['evaluation']['temperature']:g}. No algorithm was tuned, and none has its paper's learning "
        "rate: this shows what changing one yaml does, not which method is best. The embedded world illustrates mechanisms "
        "and is no evidence about models of useful size.",
        "**Intervals** are Student's t at 95 % over seeds (mean +- t s / sqrt(n)), as everywhere in analysis/. They "
        "speak of other seeds on the same questions, not of other questions or models, and are not "
        "adjusted for the number of comparisons. **Tokens** are the response tokens of all training steps, evaluations aside, "
        "with those sampled to estimate values, which also stand alone. **CPU seconds** are of a whole run, start and "
        "evaluations included, of one thread" + (f" of {' or '.join(cpus)}" if cpus else "") + "; they wander with what "
        "else the machine does.",
    ]  # fmt: skip


def table(made: Sequence[Card], measured: Mapping[str, Any]) -> str:
    """The contents: every algorithm with its final numbers."""
    rows = ["| algorithm | accuracy | response length | of wrong answers | tokens | for values | CPU s |"]
    rows += ["| --- | --- | --- | --- | ---: | ---: | ---: |"]
    for one in made:
        entry = measured.get(one.name)
        if entry:
            curves = [final(entry["accuracy"], 3), final(entry["length"], 1), final(entry["length_incorrect"], 1)]
            values = f"{entry['critic_tokens'] / 1000:,.0f} k" if entry["critic_tokens"] else ""
            cost = "" if entry["cpu_seconds"] is None else f"{entry['cpu_seconds']:.0f}"
            cells = [*curves, f"{(entry['tokens'] + entry['critic_tokens']) / 1000:,.0f} k", values, cost]
        else:
            cells = ["not measured", *[""] * 5]
        rows.append(f"| {' | '.join([f'[{one.name}](#{one.name})', *cells])} |")
    return "\n".join(rows)


def anatomy(made: Sequence[Card]) -> str:
    """The functions of every algorithm side by side."""
    rows = ["| algorithm | advantage | weight | surrogate | extras | paper |", "| --- | --- | --- | --- | --- | --- |"]
    for one in made:
        calls = one.calls
        first = [f"`{calls.pop(slot)}`" for slot in ("advantage", "weight", "surrogate")]
        extras = [f"{slot} `{call if slot != 'critic' else call.partition('(')[0]}`" for slot, call in calls.items()]
        extras += [f"`{key}={value}`" for key, value, _ in one.extras]
        papers = ", ".join(f"[{key}]" for key in one.papers or one.sources)
        rows.append(f"| {' | '.join([f'[{one.name}](#{one.name})', *first, ', '.join(extras), papers])} |")
    return "\n".join(rows)


def section(one: Card, entry: Mapping[str, Any] | None, own: tuple[tuple[str, ...], str] | None) -> list[str]:
    """Everything about one algorithm."""
    lines = []
    for p in one.parts:
        module = p.target.rpartition(".")[0].replace(".", "/")
        lines.append(f"- {p.slot} [`{p.call}`](../{module}.py): {p.says}")
        lines += [f"  - {' '.join(p.notes)}"] if p.notes else []
    lines += [f"- `{key}: {value}`{': ' + meaning if meaning else ''}" for key, value, meaning in one.extras]
    if own:
        lines.append(f"- runs with `{' '.join(own[0])}`: {own[1]}")
    if entry:
        start, end = (f"{entry['accuracy']['mean'][i]:.3f}" for i in (0, -1))
        each = ", ".join(f"{value:.3f}" for value in entry["accuracy"]["final"])
        counted = "seed " + str(entry["seeds"][0]) if len(entry["seeds"]) == 1 else f"{len(entry['seeds'])} seeds"
        lines.append(
            f"- measured, {counted}: accuracy {start} -> {end} in {entry['steps'][-1]} steps (each seed's end: {each}); "
            f"response length {entry['length']['mean'][0]:.1f} -> {final(entry['length'], 1)} tokens"
        )
    else:
        lines.append("- measured: not yet")
    lines.append("- sources: " + ", ".join(f"[{key}]" for key in one.sources))
    return [f"### {one.name}", one.header, "\n".join(lines)]


def linked(reference: str) -> str:
    """A reference with a link for every arXiv number."""
    return re.sub(r"(?:arXiv )?(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference)


def address(reference: str) -> str:
    """Where the key of a reference leads: to its first arXiv page, else to the list of sources."""
    number = re.search(r"\d{4}\.\d{5}", reference)
    return f"https://arxiv.org/abs/{number[0]}" if number else "#sources"


def final(curve: Mapping[str, Sequence[float | None]], digits: int) -> str:
    """The last mean of a curve with its interval."""
    mean, low, high = (curve[key][-1] for key in ("mean", "low", "high"))
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


# ------------------------------------------------------------------------------------------------------------- the figure


def draw(made: Sequence[Card], numbers: Mapping[str, Any], path: Path) -> None:
    """Accuracy (above) and response length (below) against steps: a column per family, the default algorithm in grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no global state, no display
    from matplotlib.figure import Figure

    measured = numbers.get("algorithms", {})
    families = list(dict.fromkeys(one.family for one in made))
    figure = Figure(figsize=(4.3 * len(families), 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("mean over seeds and its 95 % interval", fontsize=10, color=GREY)
    axes = figure.subplots(2, len(families), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(families):
        members = [one.name for one in made if one.family == name]
        looks = {member: COLOURS[i % len(COLOURS)] for i, member in enumerate(members)}
        looks = {default_name(): GREY} | looks
        for row, (curve, title) in enumerate((("accuracy", name), ("length", ""))):
            axis = axes[row][column]
            for member, colour in looks.items():
                if member in measured:
                    _curve(axis, measured[member], curve, member, colour)
            axis.set_title(title, fontsize=10)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        axes[1][column].set_xlabel("step")
        if axes[1][column].has_data():  # below: inside it would hide a line
            axes[1][column].legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    for row, label in ((0, "held-out accuracy"), (1, "response length, tokens")):
        axes[row][0].set_ylabel(label)
        axes[row][0].xaxis.get_major_locator().set_params(integer=True)
        seen = [value for axis in axes[row] for line in axis.lines for value in line.get_ydata()]
        if seen:  # the means decide: the interval of two or three seeds may be wider than all that is to be seen
            axes[row][0].set_ylim(0 if row == 0 else 0.85 * min(seen), 1.15 * max(seen))
    figure.savefig(path, dpi=110)


def _curve(axis: Any, entry: Mapping[str, Any], curve: str, label: str, colour: str) -> None:
    data, steps = entry[curve], entry["steps"]
    style = "--" if colour == GREY else "-"
    axis.plot(steps, data["mean"], style, color=colour, linewidth=1.6, marker="o", markersize=3, label=label)
    if None not in data["low"]:
        axis.fill_between(steps, data["low"], data["high"], color=colour, alpha=0.13, linewidth=0)
