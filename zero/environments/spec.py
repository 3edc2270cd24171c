"""Which environment, with which settings and limits: `environment` of the config, checked before anything is started."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from typing import Any, NamedTuple

from zero.config.functions import function_at, line_of
from zero.errors import InputError
from zero.paths import pip_install

KEY = "environment.make"
OWN = "zero."
MOST_WORKERS = 512
EXTRAS = "extras"  # SkyRL-Gym's parameter for the columns of a row


class Limits(NamedTuple):
    """What one environment may use."""

    cpu_s: float  # CPU seconds of a turn; those of reset are a turn's too
    memory_mb: int  # of address space for all of one worker, beyond what its imports take
    observation_chars: int


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """An environment and its limits.

    path, settings     the factory's dotted path, and what it is called with, as JSON
    modules            what a worker imports before it is forked
    isolated           whether it lives in worker processes that can be killed; else in this process
    cpu_s, wall_s      seconds of one turn; the second is a backstop for one that sleeps
    memory_mb          of address space for all environments of one worker, beyond what its imports take
    observation_chars  of the longest observation
    workers            processes
    """

    path: str
    settings: str
    modules: tuple[str, ...]
    isolated: bool
    cpu_s: float
    wall_s: float
    memory_mb: int
    observation_chars: int
    workers: int

    @property
    def limits(self) -> Limits:
        """What one environment may use."""
        return Limits(self.cpu_s, self.memory_mb, self.observation_chars)


def environment_spec(
    make: Mapping[str, Any],
    isolated: bool | None = None,
    cpu_s: float = 5.0,
    wall_s: float = 60.0,
    memory_mb: int = 2048,
    observation_chars: int = 20_000,
    workers: int = 2,
) -> EnvironmentSpec:
    """The spec of `environment` in a config. `make` is {"_target_": dotted path, ...settings}; `isolated` None: all but our own.

    Raises InputError for a factory that cannot be imported, lacks its package or does not take its settings, and for limits
    that cannot work.
    """
    if not isinstance(isolated, bool | None):
        raise InputError("environment.isolated", isolated, "must be true, false or null")
    numbers = dict(
        cpu_s=cpu_s, wall_s=wall_s, memory_mb=memory_mb, observation_chars=observation_chars, workers=workers
    )
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not (isfinite(number) and number > 0):
            raise InputError(f"environment.{name}", number, "must be a number above 0")
        if name not in ("cpu_s", "wall_s") and number != int(number):
            raise InputError(f"environment.{name}", number, "must be a whole number")
    if workers > MOST_WORKERS:
        raise InputError("environment.workers", workers, f"must be at most {MOST_WORKERS}; one for each core is enough")
    path = make.get("_target_") if isinstance(make, Mapping) else None
    if not isinstance(path, str):
        raise InputError(KEY, make, f"must name a class of environments: {KEY}._target_=MODULE.CLASS")
    settings = {name: value for name, value in make.items() if not str(name).startswith("_")}
    factory = function_at(path, f"{KEY}._target_")
    _check(factory, path, settings)
    if isolated is None:
        isolated = not path.startswith(OWN) or getattr(factory, "isolated", False)
    if not isolated:
        _make_one(factory, path, settings)
    try:
        text = json.dumps(settings, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InputError(KEY, path, f"its settings are no plain data: {error}") from error
    modules = (_module_of(path), *getattr(factory, "modules", ()))
    sizes = (int(memory_mb), int(observation_chars), int(workers))
    return EnvironmentSpec(path, text, modules, isolated, float(cpu_s), float(wall_s), *sizes)


def _module_of(path: str) -> str:
    """The module of a dotted path that has been imported."""
    module = path
    while module not in sys.modules:
        module = module.rpartition(".")[0]
    return module


def wants_extras(factory: Callable[..., Any]) -> bool:
    """Whether a factory has SkyRL-Gym's parameter for the columns of a row."""
    try:
        return EXTRAS in inspect.signature(factory).parameters
    except (ValueError, TypeError):  # some built-in functions have no signature
        return False


def _check(factory: Callable[..., Any], path: str, settings: Mapping[str, Any]) -> None:
    """InputError unless a factory has its package, takes these settings and, if it is a class, has an environment's methods."""
    package = getattr(factory, "package", "")
    if package and find_spec(package) is None:
        raise InputError(KEY, path, f"{package} is not installed: {pip_install(package)}")
    if isinstance(factory, type):
        missing = [names for names in (("reset", "init"), ("step",)) if not any(hasattr(factory, n) for n in names)]
        if missing:
            remedy = f"has no method {' or '.join(missing[0])}; zero/environments/__init__.py says what it needs"
            raise InputError(f"{KEY}._target_", path, remedy)
    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):
        return
    given = {EXTRAS: None, **settings} if wants_extras(factory) else settings
    try:
        signature.bind(**given)
    except TypeError as error:
        names = [name for name in signature.parameters if name not in ("self", EXTRAS)]
        takes = f"it takes {', '.join(names)}" if names else "it takes none"
        raise InputError(KEY, path, f"{error}; {takes}: +{KEY}.NAME=VALUE") from error


def _make_one(factory: Callable[..., Any], path: str, settings: Mapping[str, Any]) -> None:
    """InputError if an environment of this process refuses its settings."""
    try:
        factory(**settings)
    except InputError:
        raise
    except Exception as error:
        raise InputError(KEY, path, f"{type(error).__name__}{line_of(error)}: {error}") from error
