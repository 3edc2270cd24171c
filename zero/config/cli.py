"""The command lines of this package's three programs: help, the check of every cell, experiments and sweeps, then Hydra's main."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from zero.config import experiments, functions, limits, search_path
from zero.config.check import cells, check, check_imitation, instantiate
from zero.config.compose import canonical, defaults, explained, select
from zero.config.help import help_text
from zero.config.identity import flatten
from zero.config.naming import check_name
from zero.config.overrides import key_of, options_of, parsed, repeated_settings, tidied
from zero.config.suggest import nearest
from zero.errors import EXIT_FAILED, EXIT_INPUT, EXIT_LEASE_LOST, EXIT_PREEMPTED, Broken, InputError, Preempted
from zero.paths import CONF
from zero.process import leave
from zero.signals import SECOND_CTRL_C, LeaseLost

USABLE = ("hydra.verbose", "hydra.job_logging", "hydra/job_logging")  # the settings of Hydra that have an effect here
NO_COMPLETION = "cannot complete `python -m`; --help lists all groups and settings"

_failures: list[tuple[str, Exception]] = []  # cells of this process' multirun that failed


def command_line(name: str, main: Callable[[], None]) -> None:
    """Run a Hydra main: check every cell first, then start. Bad input is one line and exit code 2."""
    try:
        _run(name, main)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what was saved", file=sys.stderr)
        leave(SECOND_CTRL_C)
        sys.exit(SECOND_CTRL_C)
    except BrokenPipeError:
        if not {"--help", "-h", "--version", "--cfg", "-c", "--info", "-i", "--hydra-help"} & set(sys.argv[1:]):
            raise  # of a run, which must not end in silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # | head: nobody reads the rest


def _run(name: str, main: Callable[[], None]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # show our own traceback instead of Hydra's summary
    try:
        if "--version" in sys.argv[1:]:
            print(version(), flush=True)
            return
        sys.argv[1:] = search_path.take(sys.argv[1:])
        arguments = argument_parser().parse_intermixed_args()
        refuse_flags(arguments)
        if arguments.help:
            print(help_text(name, arguments.overrides), flush=True)
            return
        launch = sweep_launcher(arguments.overrides)
        arguments = readable(name, arguments, several=arguments.multirun or launch is not None)
        if experiments.is_named(arguments.overrides):
            arguments = expand_experiment(name, arguments)
            launch = sweep_launcher(arguments.overrides)
        only_shown = arguments.hydra_help or arguments.info
        if not (only_shown or arguments.cfg) and launch:
            sys.exit(launch(root=name, overrides=arguments.overrides))
        if not only_shown:
            check_all(name, arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    if arguments.cfg and not arguments.resolve:
        sys.argv.append("--resolve")  # show values instead of interpolations
    GlobalHydra.instance().clear()
    try:
        main()
    except SystemExit as end:
        leave(end.code)
        raise
    except LeaseLost as error:
        print(f"{error}; nothing more is written here", file=sys.stderr)
        leave(EXIT_LEASE_LOST)
        sys.exit(EXIT_LEASE_LOST)
    except HydraException as error:  # of its own options, such as --config-name
        print(f"error: {explained(name, arguments.overrides, error)}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    finally:
        tell_failures()
    if _failures:
        leave(_exit_code())
        sys.exit(_exit_code())
    leave(0)


def argument_parser() -> ArgumentParser:
    """Hydra's argument parser, whose errors become InputErrors."""
    parser: ArgumentParser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError("command line", " ".join(sys.argv[1:]), f"{message}; --help lists all")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def refuse_flags(arguments: Namespace) -> None:
    """InputError for flags of Hydra that do not work here."""
    if arguments.shell_completion:
        raise InputError("--shell-completion", "", NO_COMPLETION)
    for flag in ("config_path", "config_name", "experimental_rerun"):
        if value := getattr(arguments, flag):
            remedy = "each command has its own config; --config-dir DIR adds options: DIR/algo/mine.yaml is algo=mine"
            raise InputError(f"--{flag.replace('_', '-')}", value, remedy)
    for flag in ("resolve", "package"):
        if getattr(arguments, flag) and not arguments.cfg:
            raise InputError(f"--{flag}", "", "belongs to --cfg job; leave it out to run")
    if arguments.run and arguments.multirun:
        raise InputError("--run", "", "and --multirun are given; leave one out")


def readable(name: str, arguments: Namespace, several: bool) -> Namespace:
    """The arguments in Hydra's grammar, also in sys.argv. InputError for several values without a sweep, and for settings of
    Hydra without an effect here."""
    typed = list(arguments.overrides)
    for note in repeated_settings(typed):
        print(note, file=sys.stderr)
    refuse_hydras_own(typed, arguments.multirun)
    texts = tidied(typed, several)
    if not several:
        for text in texts:
            if key_of(text) not in (experiments.KEY, experiments.SIZE):
                refuse_sweep(name, text)
    if not experiments.is_named(texts):
        texts = canonical(name, texts)
    sys.argv[1:] = [text for text in sys.argv[1:] if text not in typed] + texts
    return Namespace(**(vars(arguments) | {"overrides": texts}))


def refuse_sweep(name: str, text: str) -> None:
    """InputError if an override has several values."""
    if not parsed(text).is_sweep_override():
        return
    key, value = key_of(text), text.partition("=")[2]
    default = None if key in experiments.KEY else select(_defaults(name), key)
    remedy: dict[Any, str] = {
        list: f", or make it one list: {key}=[{value}]",
        str: f", or put quotes in quotes: {key}=\"'{value}'\"",
    }
    hint = remedy.get(type(default), "") if options_of(key) == () else ""
    raise InputError(key, value, f"several values are a sweep; add -m{hint}")


def _defaults(name: str) -> dict[str, Any]:
    try:
        return defaults(name)
    except InputError:
        return {}


def refuse_hydras_own(overrides: Sequence[str], multirun: bool) -> None:
    """InputError for settings of Hydra that this command ignores, and for an unknown launcher."""
    keys = {key_of(text): text.partition("=")[2] for text in overrides if key_of(text).startswith("hydra")}
    known = ["basic", *options_of("hydra/launcher")]
    for key, value in keys.items():
        if key == "hydra/launcher":
            if value not in known:
                raise InputError(key, value, f"no such launcher{nearest(value, known)}; there are {', '.join(known)}")
        elif key.startswith("hydra.launcher."):
            if keys.get("hydra/launcher", "basic") == "basic" and not experiments.is_named(overrides):
                raise InputError(
                    key, value, f"belongs to a launcher; add {' or '.join(f'hydra/launcher={k}' for k in known[1:])}"
                )
        elif not (key.startswith(USABLE) or (key == "hydra.sweep.dir" and multirun)):
            remedy = "is Hydra's own and does nothing here; run_dir, name and hydra.launcher.folder say where things go"
            raise InputError(key, value, remedy)
        elif keys.get("hydra/launcher", "basic") != "basic":
            raise InputError(key, value, f"does nothing under hydra/launcher={keys['hydra/launcher']}")


def check_all(name: str, arguments: Namespace) -> None:
    """Check every cell of the command line. InputError for the first that is wrong."""
    names: list[str] = []
    rewards: list[Any] = [None]
    every_cell = cells(arguments.overrides)
    for overrides in every_cell:
        config = check(name, overrides)
        check_name(config.get("name"))
        names += [config["name"]] if config.get("name") else []
        if not arguments.cfg:  # to be run here
            limits.check_installed(flatten(config))
            check_imitation(config)
            functions.check_importable(config)
            # An engine and a learner get other settings than these: zero/build.py
            later = {key: node for key, node in config.items() if key not in ("rollout", "learner")}
            functions.check_partials(later, ours=False)
            if (reward := config.get("reward")) not in rewards:
                instantiate(reward, "reward")  # a function that does not exist is refused before anything is loaded
                rewards.append(reward)
    if len(set(names)) < len(names):
        raise InputError("name", names[0], f"is one run's, and this line has {len(every_cell)}; leave it out")


@contextmanager
def errors_reported() -> Iterator[None]:
    """Around a Hydra job: InputError and Broken become one line and an exit code. In a multirun the other cells still run,
    unless the run was told to stop."""
    try:
        yield
    except (InputError, Broken) as error:
        report_failure(error)
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_PREEMPTED)


def report_failure(error: InputError | Broken) -> None:
    """Print a job's error in one line, and exit; in a multirun record it and let the other cells run."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED)
    label = " ".join(HydraConfig.get().overrides.task) or "the run"
    print(f"error: {error} ({label}); the other runs go on", file=sys.stderr)
    _failures.append((label, error))


def tell_failures() -> None:
    """Print the failures of a multirun, if there are any."""
    if _failures:
        print(f"{len(_failures)} {'run' if len(_failures) == 1 else 'runs'} of this line failed:", file=sys.stderr)
    for label, error in _failures:
        print(f"  {label}: {error}", file=sys.stderr)


def _exit_code() -> int:
    return EXIT_INPUT if all(isinstance(error, InputError) for _, error in _failures) else EXIT_FAILED


def version() -> str:
    """The versions of this package, Hydra and torch."""
    from importlib import metadata

    from zero import paths

    return (
        f"{paths.PROJECT} {paths.version()} (Hydra {metadata.version('hydra-core')}, torch {metadata.version('torch')})"
    )


def expand_experiment(root: str, arguments: Namespace) -> Namespace:
    """The arguments of a command line that names experiments. A multirun becomes a sweep, on this machine by default; else the
    name is replaced by its one cell. InputError for several."""
    typed, named = arguments.overrides, experiments.expand(arguments.overrides)
    if arguments.multirun and not arguments.cfg:
        more = [] if sweep_launcher(typed) else ["hydra/launcher=local"]
        return Namespace(**(vars(arguments) | {"overrides": [*typed, *more]}))
    composed = [cell for experiment in named for line in experiment.lines for cell in cells(line.overrides)]
    if len(composed) > 1 or named[0].lines[0].after:
        remedy = f"has {len(composed)} cells; add -m for all of them, or choose one, such as: {' '.join(composed[0])}"
        raise InputError(experiments.KEY, named[0].name, remedy)
    if named[0].root != root:
        raise InputError(experiments.KEY, named[0].name, f"is one of python -m zero.{named[0].root}")
    sys.argv[1:] = [text for text in sys.argv[1:] if text not in typed] + composed[0]
    return readable(root, argument_parser().parse_intermixed_args(), several=False)


def sweep_launcher(overrides: Sequence[str]) -> Callable[..., int] | None:
    """The sweep function of conf/hydra/launcher/X.yaml for hydra/launcher=X; None: Hydra runs one cell after another."""
    chosen = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("hydra/launcher=")]
    path = CONF / "hydra" / "launcher" / f"{chosen[-1] if chosen else ''}.yaml"
    if not path.is_file():
        return None
    launcher: Any = OmegaConf.load(path)
    launch: Callable[..., int] = instantiate({"_target_": launcher["_target_"], "_partial_": True})
    return launch
