"""Errors that end a program with one line instead of a traceback."""

import argparse
import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

P = ParamSpec("P")

EXIT_FAILED, EXIT_INPUT = 1, 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL
EXIT_LEASE_LOST = 76
PASSWORD = re.compile(r"//[^/?#\s]*:[^/?#\s]*@")  # user and password in a URI: never printed


class InputError(Exception):
    """What the user gave cannot work: one line that names the key, its value and the remedy. Exit code 2."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        shown = PASSWORD.sub("//...@", str(value)).replace("\n", "\\n")
        missing = not shown and (key.isupper() or key.startswith("-"))  # a command-line argument that was not given
        what = key if missing else f"{key}={shown[:200]}"
        super().__init__(f"{what}: {remedy}".replace("\n", "\\n"))
        self.key, self.value, self.remedy = key, value, remedy


def one_line_errors(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose InputError is a line on stderr and exit code 2."""

    @wraps(command)
    def run(*given: P.args, **named: P.kwargs) -> int:
        try:
            return command(*given, **named)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_INPUT

    return run


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line, and exit."""
        line = " ".join(f"error: {message}; {self.prog} --help lists all arguments".split())
        self.exit(EXIT_INPUT, f"{line}\n")


class Broken(RuntimeError):
    """Something that the run depends on has failed, and the message says what. Exit code 1."""


class Preempted(Exception):
    """A stop was requested, and the state is saved: the same command continues the run. Exit code 75."""
