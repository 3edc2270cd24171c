"""Texts with slots: "Reach {target}." and what stands in for {target}."""

from __future__ import annotations

import re

_SLOT = re.compile(r"\{([a-z_]+)\}")


def fill_slots(text: str, **values: object) -> str:
    """The text with the values in their slots, in one pass: a value that looks like a slot stays as it is, and so does a slot
    without a value."""
    return _SLOT.sub(lambda slot: str(values.get(slot[1], slot[0])), text)


def missing_slots(text: str, *names: str) -> list[str]:
    """Those of the slots, in braces, that the text does not have."""
    return [f"{{{name}}}" for name in names if f"{{{name}}}" not in text]
