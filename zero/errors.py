"""The ways a run ends early that its own words explain."""

import re

EXIT_PREEMPTED = 75  # EX_TEMPFAIL
PASSWORD = re.compile(r"//[^/?#\s]*:[^/?#\s]*@")  # of a uri that names a user: it is never printed


class InputError(Exception):
    """What the user gave cannot work: one line that names the key, its value and the remedy. Exit code 2."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        shown = PASSWORD.sub("//...@", str(value)).replace("\n", "\\n")
        nothing = not shown and (key.isupper() or key.startswith("-"))  # a word of a command line that was not given
        what = key if nothing else f"{key}={shown[:200]}"
        super().__init__(f"{what}: {remedy}".replace("\n", "\\n"))
        self.key, self.value, self.remedy = key, value, remedy


class Broken(RuntimeError):
    """Something that the run depends on has failed, and the message says what: no traceback. Exit code 1."""


class Preempted(Exception):
    """Somebody asked to stop, and the state is saved: the same command continues the run. Exit code 75."""
