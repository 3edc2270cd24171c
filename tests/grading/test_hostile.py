"""Answers made to hang, exhaust or crash a grader: a verdict at once, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

SECONDS = 60.0  # takes 4 on an idle core, with the start of Python; one quadratic step would take minutes


def test_hostile_answers_get_a_verdict_at_once() -> None:
    command = [sys.executable, "-m", "tests.grading.hostile"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("verdicts\n")


def test_grading_needs_no_torch() -> None:
    """Question sets and graders load in a moment; torch takes seconds."""
    modules = "zero.grading zero.template zero.questions.files zero.questions.countdown zero.statistics zero.reflection"
    code = f"import sys, {', '.join(modules.split())}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=SECONDS)
    assert done.stdout.strip() == "False", done.stderr
