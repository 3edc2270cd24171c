"""R1-Zero-like training, one step at a time. Start reading at zero/loop.py."""

import sys
from types import TracebackType


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while the modules of a program are still being imported is no failure."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped before anything began", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # one of this package is about to run as a program
    sys.excepthook = _without_traceback
