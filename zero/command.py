"""A command line from its first word to the job: help, the check of every cell, experiments and sweeps, then Hydra's main.

Used by the three programs of this package.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from string import Template
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from zero import experiments, settings
from zero.config import CONF, cells, check, check_solutions, explained, instantiate, quoted
from zero.errors import InputError
from zero.identity import flatten
from zero.signals import SECOND_CTRL_C


def command_line(name: str, main: Callable[[], None]) -> None:
    """Run a Hydra main: check every cell first, then start. Bad input is one line and exit code 2."""
    try:
        _run(name, main)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what was saved", file=sys.stderr)
        leave(SECOND_CTRL_C)
        sys.exit(SECOND_CTRL_C)


def _run(name: str, main: Callable[[], None]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a traceback of ours is worth more than Hydra's summary
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
    try:
        arguments = get_args_parser().parse_args()
        if experiments.is_named(arguments.overrides):
            arguments = of_experiment(name, arguments)
        if arguments.help:
            print(help_text(name, arguments.overrides))
            return
        told = arguments.hydra_help or arguments.info or arguments.shell_completion
        if not (told or arguments.cfg) and (launch := sweep_launcher(arguments.overrides)):
            sys.exit(launch(root=name, overrides=arguments.overrides))
        if not told:
            for overrides in cells(arguments.overrides):
                config = check(name, overrides)
                if not arguments.cfg:  # to be run here
                    settings.check_installed(flatten(config))
                    check_solutions(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if arguments.cfg and not arguments.resolve:
        sys.argv.append("--resolve")  # what the run would take, not where it comes from
    GlobalHydra.instance().clear()
    try:
        main()
    except SystemExit as end:
        leave(end.code)
        raise
    leave(0)


def help_text(name: str, overrides: Sequence[str]) -> str:
    """What `--help` says: the text of conf/NAME.yaml with all choices and settings filled in. Hydra's own listing of the
    choices takes three times as long as everything else: it copies its whole state for each group."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(name, overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise explained(name, overrides, error) from error
    groups = {folder.relative_to(CONF).as_posix(): sorted(path.stem for path in folder.glob("*.yaml"))
              for folder in sorted(CONF.rglob("*/"))}  # fmt: skip
    listed = "".join(
        f"{group}: {', '.join(options)}\n"
        for group, options in groups.items()
        if options and not group.startswith("hydra")
    )
    template = config.hydra.help.template
    with open_dict(config):
        del config["hydra"]
    return Template(template).substitute(APP_CONFIG_GROUPS=listed, CONFIG=OmegaConf.to_yaml(config))


def of_experiment(root: str, arguments: Namespace) -> Namespace:
    """A command line that names experiments: a multirun is a sweep, of this machine if it names no other launcher; else the
    one cell that is left stands in place of the name."""
    typed, named = arguments.overrides, experiments.expand(arguments.overrides)
    if arguments.multirun and not arguments.cfg:
        more = [] if sweep_launcher(typed) else ["hydra/launcher=local"]
        return Namespace(**(vars(arguments) | {"overrides": [*typed, *more]}))
    found = [cell for of in named for line in of.lines for cell in cells(line.overrides)]
    if len(found) > 1 or named[0].lines[0].after:
        remedy = f"has {len(found)} cells; add -m for all of them, or choose one, such as: {' '.join(found[0])}"
        raise InputError(experiments.KEY, named[0].name, remedy)
    if named[0].root != root:
        raise InputError(experiments.KEY, named[0].name, f"is one of python -m zero.{named[0].root}")
    sys.argv[1:] = [text for text in sys.argv[1:] if text not in typed] + found[0]
    return get_args_parser().parse_args()


def leave(code: Any) -> None:
    """One of several processes ends here, now that all is written: taking torch's threads down with the interpreter under
    them aborts now and then, which whoever started the processes would take for a failure."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def sweep_launcher(overrides: Sequence[str]) -> Callable[..., int] | None:
    """What conf/hydra/launcher/X.yaml makes of a multirun under hydra/launcher=X; None: Hydra does it, a cell after another."""
    chosen = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith("hydra/launcher=")]
    path = CONF / "hydra" / "launcher" / f"{chosen[-1] if chosen else ''}.yaml"
    if not path.is_file():
        return None
    launcher: Any = OmegaConf.load(path)
    found: Callable[..., int] = instantiate({"_target_": launcher["_target_"], "_partial_": True})
    return found
