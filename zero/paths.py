"""Where the project's own files lie: in a checkout `conf/` stands beside the packages, in an installed copy inside `zero`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # absolute: a relative path depends on how the program was started
CONF = next((place for place in (ROOT / "conf", ROOT / "zero" / "conf") if place.is_dir()), ROOT / "conf")
