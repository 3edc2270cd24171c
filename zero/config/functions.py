"""Functions that a config names by dotted paths: whether they exist, have the settings that it gives them, and can be called as
they will be."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zero
from zero.errors import InputError

OWN = "zero."  # our functions name their arguments as the table below does; a user's may be called anything
# The last word of a function's key in the config -> the arguments of its call by position, and by name
CALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "advantage": (("rewards_PG",), ()),
    "weight": (("mask_NT",), ()),
    "surrogate": (("logprob_NT", "old_NT", "advantage_NT", "mask_NT"), ()),
    "kl": (("logprob_NT", "reference_NT"), ()),
    "correction": (("old_NT", "sampler_NT", "mask_NT"), ()),
    "turn_advantage": (("rewards_PGK", "taken_PGK"), ()),
    "estimator": (("reward_NT", "value_NT", "step_start_NT", "mask_NT"), ()),
    "make": (("matrices", "others"), ("lr", "betas", "weight_decay")),
    "extract": (("text",), ()),
    "extract_any": (("text",), ()),
    "check": (("answer", "question"), ()),
    "row": (("row",), ()),
}


def check_importable(config: Any, key: str = "") -> None:
    """InputError for a `_target_` in a module that does not exist; imports the packages around it at most."""
    for place, node in nodes(config, key):
        path = str(node["_target_"])
        module, _, name = path.rpartition(".")
        if not _may_hold(module, name):
            reason = f"{module} has no {name}" if module in sys.modules else f"no module {module or path}"
            raise _no_such(path, f"{place}._target_", reason)


def check_partials(config: Any, key: str = "", ours: bool = True) -> None:
    """InputError for a function to be called later (`_partial_: true`) that cannot be imported, has not the settings beside it,
    or cannot be called with what its place in the config will give it. Without `ours` the user's own functions alone."""
    for place, node in nodes(config, key):
        path = str(node["_target_"])
        if node.get("_partial_") is True and (ours or not path.startswith(OWN)):
            settings = {name: value for name, value in node.items() if not str(name).startswith("_")}
            _check_call(function_at(path, f"{place}._target_"), path, settings, place)


def nodes(config: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(dotted key, node) of every function and class that the config names."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from nodes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from nodes(value, f"{key}.{i}")


def _check_call(function: Callable[..., Any], path: str, settings: Mapping[str, Any], key: str) -> None:
    """InputError unless the function takes these settings and the arguments of its call."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some built-in functions have none
        return
    # A class is made first, by other code
    by_position, by_name = ((), ()) if isinstance(function, type) else CALLS.get(key.rpartition(".")[2], ((), ()))
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    names = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [name for name in names[len(by_position) :] if name not in by_name]
    if len(names) == len(parameters):  # no **settings
        for name in settings:
            if name not in own:
                has = f"it has {', '.join(own)}" if own else "it has none"
                remedy = f"{path} takes no such setting; {has} (a config that yours is based on may set it)"
                raise InputError(f"{key}.{name}", settings[name], remedy)
    if not by_position:
        return
    call = ", ".join((*by_position, *(f"{name}=..." for name in by_name)))
    if path.startswith(OWN) and tuple(names[: len(by_position)]) != by_position:
        remedy = f"is a function of ({', '.join(names[: len(by_position)])}), and this one is called with ({call})"
        raise InputError(f"{key}._target_", path, remedy)
    try:
        signature.bind(*by_position, **dict.fromkeys(by_name), **settings)
    except TypeError as error:
        remedy = f"{error}; it is called with ({call}) and the settings of {key}: +{key}.NAME=VALUE"
        raise InputError(f"{key}._target_", path, remedy) from error


def _may_hold(module: str, name: str) -> bool:
    """Whether a module may have the name, as far as can be said without importing it."""
    if module in sys.modules:
        return hasattr(sys.modules[module], name) or _is_module(f"{module}.{name}")
    if _is_module(module):
        return True
    outer, _, inner = module.rpartition(".")  # module may be a class
    return bool(outer) and _may_hold(outer, inner)


def _is_module(path: str) -> bool:
    if path.startswith(
        OWN
    ):  # by its file, since looking a module up imports the packages around it, and torch with some
        file = Path(zero.__file__).parent.joinpath(*path.split(".")[1:])
        return file.is_dir() or file.with_suffix(".py").is_file()
    try:
        return bool(path) and find_spec(path) is not None
    except ModuleNotFoundError:
        return False
    except Exception:  # of any kind, from a user's own package; importing it will say more
        return True


def function_at(path: str, key: str) -> Callable[..., Any]:
    """The function of a dotted path. InputError if there is none, or if importing its module fails."""
    try:
        function = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise _no_such(path, key, str(error)) from error
    except Exception as error:  # of any kind, from the user's own module
        problem = f"its module cannot be imported: {type(error).__name__}{line_of(error)}: {error}"
        raise InputError(key, path, problem) from error
    if not callable(function):
        raise InputError(key, path, f"is no function but of type {type(function).__name__}")
    return function


def _no_such(path: str, key: str, reason: str) -> InputError:
    remedy = f"nothing of that name can be imported ({reason}){_nearest_name(path)}"
    return InputError(key, path, f"{remedy}; give the dotted path of a function")


def _nearest_name(path: str) -> str:
    """'; did you mean ...' with the closest name in the module of a dotted path, or ''."""
    module, _, name = path.rpartition(".")
    try:
        names = [known for known in dir(pkgutil.resolve_name(module)) if not known.startswith("_")]
    except (ImportError, AttributeError, ValueError):
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {module}.{close[0]}?" if close else ""


def line_of(error: Exception) -> str:
    """' at FILE:LINE' of the last frame outside libraries, or ''."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "site-packages" not in frame.filename]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
