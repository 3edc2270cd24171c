"""Does a response say that it checks itself? By keywords only; whether the check helps is another question."""

from __future__ import annotations

# Liu et al. 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", arXiv 2503.20783, appendix on the
# detection of self-reflection. "wait" and "try again" are left out there on purpose: they also occur in ordinary text.
KEYWORDS = (
    "recheck",
    "rethink",
    "reassess",
    "reevaluate",
    "re-evaluate",
    "reevaluation",
    "re-examine",
    "reexamine",
    "reconsider",
    "reanalyze",
    "double-check",
    "check again",
    "think again",
    "verify again",
    "go over the steps",
)


def reflects(text: str) -> bool:
    """Whether any keyword occurs in the text, in any case, also as a part of a word (rechecking)."""
    lower = text.lower()
    return any(keyword in lower for keyword in KEYWORDS)
