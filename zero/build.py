"""From a checked config to the parts of a run, each built once: read `build` first. Imports torch; import it late."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from zero import run_folder, runtime
from zero.asking import asking_template, first_of_each_template, make_sampling
from zero.benchmark import Benchmark
from zero.config.check import instantiate, options, takes_weights, without_facts
from zero.context import check_context, without_overlong_prompts
from zero.distributed import World
from zero.environments.settings import EpisodeSettings
from zero.errors import InputError
from zero.flops import FlopCounter, Sight
from zero.grading import Grader, Reward
from zero.learner import LearnerSetup
from zero.learner.trainable import matrix_parameters
from zero.loop import Run
from zero.models.image_cost import sight_cost
from zero.models.load import load_model, local_path
from zero.models.vision import load_vision
from zero.models.vocabulary import vocabulary_size
from zero.models.weights import fingerprint
from zero.monitoring import algorithm_lens as lens
from zero.monitoring.algorithm_lens import AlgorithmLens
from zero.monitoring.preflight import preflight, settings_doubts
from zero.monitoring.sync_check import SyncCheck
from zero.question_sets import as_key, refuse_images
from zero.questions import QuestionSet
from zero.questions.curriculum import Curriculum
from zero.questions.sampler import QuestionSampler
from zero.records import Question, Sampling
from zero.rollout import ModelSpec, RolloutEngine
from zero.rollout.episodes import EpisodeEngine
from zero.rollout.prefetch import Prefetch
from zero.runtime import has_bfloat16
from zero.template import AnyTemplate, joined
from zero.tracking import provenance
from zero.tracking.terminal import Progress
from zero.tracking.trackers import Trackers, open_trackers
from zero.vision import Vision

Config = Mapping[str, Any]
ONE_PROCESS = World()


def build(
    config: Config,
    run_dir: Path,
    name: str,
    sets: dict[str, QuestionSet],
    start: provenance.Start,
    template: AnyTemplate,
    reward: Reward,
    curriculum: Curriculum,
    environment: EpisodeSettings | None = None,
    world: World = ONE_PROCESS,
) -> Run:
    """Every part of a run, each from its own section of the config; those that need no torch are given."""
    device = runtime.prepare(config["threads"], config["learner"]["tf32"])
    print_notes(world, machine_notes(config, start, device, world))
    algo, optimizer = instantiate(config["algo"], "algo"), instantiate(config["optimizer"], "optimizer")
    model, tokenizer, context, vision = load_with_vision(config["model"], sets.values())
    weights = fingerprint(model, tokenizer, vision)  # before adapters or an engine change the model
    run_folder.refuse_other_model(run_dir, config["model"]["path"], weights)
    training = as_key(config["questions"])
    asking = partial(asking_template, template, config["model"], environment, tokenizer, vision)
    sampling = make_sampling(config["sampling"], config["model"], asking(), tokenizer)
    template = asking(questions=sets[training])
    first_turn = environment.first_turn(sampling) if environment else sampling
    questions = without_overlong_prompts(sets[training], template, tokenizer, first_turn, context)
    curriculum.check(list(questions.sources.values()))
    sets = sets | {training: questions}  # a copy: the run's record of its questions is of the files
    print_notes(world, [f"questions {questions.name}: {note}" for note in questions.rows.notes])
    for first in first_of_each_template(questions):
        prompt = template.prompt(first, tokenizer, (0,))
        print_notes(world, [preflight(prompt, prompt.sampling(sampling), tokenizer)])
    parameters = sum(p.numel() for p in model.parameters())
    print_notes(world, [f"warning  {doubt}" for doubt in settings_doubts(config, parameters)])
    evaluation = config["evaluation"]
    held_out = replace(sampling, temperature=evaluation["temperature"], max_tokens=evaluation["max_tokens"])
    benchmarks = make_benchmarks(
        config, asking, reward, held_out, evaluation["n"], config["seed"], sets, tokenizer, context
    )
    grader = Grader(template.extract, questions.check, questions.extract_any, reward, questions.settings)
    engine = make_engine(config["rollout"], model, tokenizer, context, device, vision, sets.values())
    engine = with_episodes(engine, environment, questions.rows.train, benchmarks, template, tokenizer, context)
    print_notes(world, [provenance.on_engine(start, engine, "bfloat16" if autocasts(config, device) else "float32")])
    flops = _flop_counter(config, model, vision)
    given = dict(model=model, tokenizer=tokenizer, vision=vision, engine=engine, grader=grader, sampling=sampling)
    critic = make_critic(config, algo, device, world, **given)  # before the learner, which may change the model
    learner = make_learner(config, model, tokenizer, algo, optimizer, device, world, vision)
    trackers = Trackers(None)
    if world.is_main and not config["probe"]:
        view = Progress(run_dir, name, config["steps"])
        trackers = open_trackers(config, run_dir, name, view)
    return Run(
        dir=run_dir,
        template=template,
        questions=questions,
        sampler=QuestionSampler(questions, curriculum, config["prompts"], config["seed"]),
        algo=algo,
        sampling=sampling,
        tokenizer=tokenizer,
        vision=vision,
        grader=grader,
        engine=engine,
        learner=learner,
        critic=critic,
        flops=flops,
        lens=make_lens(config, start["choices"].get("algo", ""), learner, tokenizer),
        sync_check=make_sync_check(config, device, vision),
        weights_fingerprint=weights,
        prefetch=Prefetch(world),
        benchmarks=benchmarks,
        trackers=trackers,
        world=world,
        **{key: config[key] for key in ("seed", "steps", "prompts", "group_size", "updates", "epochs")},
        evaluate_every=evaluation["every"],
        save_every=config["checkpoint"]["every"],
        keep=config["checkpoint"]["keep"],
        sample_every=config["samples"]["every"],
        sample_groups=config["samples"]["groups"],
    )


def _flop_counter(config: Mapping[str, Any], model: Any, vision: Vision | None) -> FlopCounter:
    seeing, flops = sight_cost(model)
    sight = Sight(vision.image_token_id, flops, config["model"]["vision"] != "frozen") if vision else None
    return FlopCounter(matrix_parameters(model) - seeing, bool(config["learner"].get("lora")), sight)


def build_evaluation(
    config: Config,
    sets: dict[str, QuestionSet],
    start: provenance.Start,
    template: AnyTemplate,
    reward: Reward,
    environment: EpisodeSettings | None,
) -> tuple[Any, Any, RolloutEngine, list[Benchmark]]:
    """(model, tokenizer, engine, benchmarks) of an evaluation. The model comes without weights if the engine is a server that
    answers with its own."""
    device = runtime.prepare(config["threads"])
    model, tokenizer, context, vision = load_with_vision(
        config["model"], sets.values(), weights=takes_weights(config["rollout"])
    )
    asking = partial(asking_template, template, config["model"], environment, tokenizer, vision)
    template = asking()
    sampling = make_sampling(config["sampling"], config["model"], template, tokenizer)
    benchmarks = make_benchmarks(
        config, asking, reward, sampling, config["n"], config["seed"], sets, tokenizer, context
    )
    first = benchmarks[0].questions.rows.heldout[0]
    print_notes(ONE_PROCESS, [preflight(template.prompt(first, tokenizer, (0,)), sampling, tokenizer)])
    engine = make_engine(config["rollout"], model, tokenizer, context, device, vision, sets.values())
    engine = with_episodes(engine, environment, (), benchmarks, template, tokenizer, context)
    print_notes(ONE_PROCESS, [provenance.on_engine(start, engine)])
    return model, tokenizer, engine, [replace(bench, template=bench.template or template) for bench in benchmarks]


def load_with_vision(
    config: Config, sets: Iterable[QuestionSet], weights: bool = True
) -> tuple[Any, Any, int, Vision | None]:
    """As load_model, with the processor of a model that sees. InputError if a set has images and the model does not."""
    model, tokenizer, context = load_model(config, weights=weights)
    vision = load_vision(model, tokenizer, local_path(config))
    refuse_images(sets, config, sees=vision is not None)
    return model, tokenizer, context, vision


def print_notes(world: World, lines: Sequence[str]) -> None:
    """Lines for the person who started the run, from one rank."""
    if world.is_main:
        for line in lines:
            print(line, file=sys.stderr)


def machine_notes(config: Config, start: provenance.Start, device: torch.device, world: World) -> list[str]:
    """What the user should know about this machine before the run: whatever makes it slower than it need be."""
    notes = []
    if config["prompts"] % world.size:
        notes.append(
            f"prompts={config['prompts']}: {world.size} ranks cannot share them evenly; a multiple of {world.size} wastes no time"
        )
    if doubt := precision_warning(config, device):
        notes.append(f"warning  {doubt}")
    if device.type == "cpu" and not start.get("kernels", True):
        notes.append(
            "note: no C++ compiler here (c++, or CXX): half as much time again, and other last digits than with the kernels"
        )
    return notes


def make_engine(
    settings: Config,
    model: Any,
    tokenizer: Any,
    context: int,
    device: torch.device,
    vision: Vision | None = None,
    sets: Iterable[QuestionSet] = (),
) -> RolloutEngine:
    """The rollout engine; it receives weights by `sync`, never from disk. InputError if it does not see the images of the sets."""
    spec = ModelSpec(model.config, tokenizer, context, torch.float32, device, vision)
    engine: RolloutEngine = instantiate(without_facts(settings), "rollout")(spec)
    if not engine.sees and (shown := next((q.name for q in sets if q.rows.have_images), None)):
        remedy = f"it takes text alone, and {shown} has images; set rollout=native or rollout=vllm"
        raise InputError("rollout", settings["_target_"].rpartition(".")[2], remedy)
    return engine


def with_episodes(
    engine: RolloutEngine,
    environment: EpisodeSettings | None,
    training: Sequence[Question],
    benchmarks: Sequence[Benchmark],
    template: AnyTemplate,
    tokenizer: Any,
    context: int,
) -> RolloutEngine:
    """The engine, or one that plays episodes with it in an environment, which must be able to begin with all that is asked."""
    if environment is None:
        return engine
    environment.refuse_others([*training, *(row for bench in benchmarks for row in bench.subset())])
    for bench in benchmarks:
        template = joined(template, bench.template, "benchmarks")
    return EpisodeEngine(engine, environment, template, tokenizer, context)


def make_sync_check(config: Config, device: torch.device, vision: Vision | None) -> SyncCheck:
    """What compares engine and learner."""
    rounded = config["learner"]["tf32"] and device.type != "cpu"
    return SyncCheck(
        config["sync_check"]["every"],
        config["sync_check"]["tolerance"],
        autocasts(config, device) or rounded,
        vision.image_token_id if vision else -1,
    )


def make_learner(
    config: Config,
    model: Any,
    tokenizer: Any,
    algo: Any,
    optimizer: Any,
    device: torch.device,
    world: World,
    vision: Vision | None = None,
) -> Any:
    """The learner around a loaded model."""
    settings = {key: value for key, value in config["learner"].items() if key not in ("precision", "tf32")}
    setup = LearnerSetup(
        model=model,
        optimizer=optimizer,
        temperature=config["sampling"]["temperature"],
        total_updates=total_updates(config),
        vocabulary=vocabulary_size(tokenizer, model.config),
        autocast=autocasts(config, device),
        keep_reference=algo.needs_reference,
        device=device,
        world=world,
        seed=config["seed"],
        vision=vision,
    )
    return instantiate(settings, "learner")(setup)


def make_critic(config: Config, algo: Any, device: torch.device, world: World, **more: Any) -> Any:
    """The critic that the algorithm asks for, made with what its constructor names of `more` and the rest; or None. Before the
    first update: it may start from the model's weights."""
    if algo.critic is None:
        return None
    known = more | {"total_updates": total_updates(config), "autocast": autocasts(config, device)}
    known |= {"seed": config["seed"], "device": device, "world": world}
    return algo.critic(**{name: known[name] for name in signature(algo.critic).parameters if name in known})


def make_lens(config: Config, own: str, learner: Any, tokenizer: Any) -> AlgorithmLens | None:
    """If the config asks for it: the algorithms of conf/algo beside the run's `own`, without those that need a critic or more
    siblings than a group has."""
    if not config["lens"]["every"]:
        return None
    algorithms = {
        name: instantiate(option, f"conf/algo/{name}.yaml")
        for name, option in options("algo", config).items()
        if option["critic"] is None and option["min_group"] <= config["group_size"]
    }
    return lens.make_lens(own, algorithms, config["lens"]["every"], tokenizer.pad_token_id or 0, learner)


def total_updates(config: Config) -> int:
    """Optimizer steps of a run."""
    return config["steps"] * config["updates"] * config["epochs"]


def autocasts(config: Config, device: torch.device) -> bool:
    """Whether forward and backward passes are in bfloat16."""
    precision = config["learner"]["precision"]
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


def precision_warning(config: Config, device: torch.device) -> str | None:
    """What a user should know who computes in full float32 on a GPU, as few mean to; None if there is nothing to say."""
    if device.type == "cpu" or autocasts(config, device) or config["learner"]["tf32"]:
        return None
    return (
        "learner.precision=float32: products in full float32 leave a GPU's tensor cores idle and take several times as "
        "long; set learner.precision=bfloat16, or learner.tf32=true to round float32 products to 10 bits"
    )


def make_benchmarks(
    config: Config,
    asking: Callable[..., AnyTemplate],
    reward: Any,
    sampling: Sampling,
    n: int,
    seed: int,
    known: dict[str, QuestionSet],
    tokenizer: Any,
    context: int,
) -> list[Benchmark]:
    """The question sets of conf/benchmarks; `known` sets (by their config as JSON) are not loaded again."""
    benchmarks = []
    for entry in config["benchmarks"]["sets"].values():
        key = as_key(entry)
        questions = known[key] if key in known else instantiate(entry)
        if not questions.rows.heldout:
            raise InputError("benchmarks", questions.name, "holds out no question; raise its heldout or choose another")
        template = asking(questions=questions)
        grader = Grader(template.extract, questions.check, questions.extract_any, reward, questions.settings)
        own = template if questions.settings else None
        bench = Benchmark(questions, grader, sampling, n, config["benchmarks"]["limit"], seed, own)
        check_context(bench, template, tokenizer, context)
        benchmarks.append(bench)
    return benchmarks
