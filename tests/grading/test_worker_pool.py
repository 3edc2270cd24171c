"""Checks in processes that can be killed: no answer stalls another one or changes its verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zero.errors import InputError
from zero.grading.worker_pool import BoundedChecker, check_many, worker_pool
from zero.records import Outcome, Question

CHECK = BoundedChecker("tests.grading.checkers.check", limit_s=0.5)
ONE = Question("?", ("1",), "one")


def test_every_outcome_in_the_order_of_the_answers() -> None:
    answers = ["1", "hang", "2", "power", "memory", "recursion", "crash", "exit", "bug", "words", "1 ", "1"]
    with pytest.warns(RuntimeWarning, match="checkers.check raised KeyError: 'a"):
        outcomes = CHECK.many([(answer, ONE) for answer in answers])
    assert outcomes == [
        Outcome.CORRECT,
        Outcome.TIMEOUT,
        Outcome.WRONG,
        Outcome.TIMEOUT,
        Outcome.TIMEOUT,
        Outcome.TIMEOUT,
        Outcome.TIMEOUT,
        Outcome.TIMEOUT,
        Outcome.FAILED,
        Outcome.UNPARSED,
        Outcome.WRONG,
        Outcome.CORRECT,
    ]
    assert CHECK.many([("1", ONE)]) == [Outcome.CORRECT]  # and the workers still work


def test_one_at_a_time_it_is_an_ordinary_checker() -> None:
    assert CHECK("1", ONE)
    assert not CHECK("2", ONE)
    with pytest.raises(ValueError, match="cannot be read"):
        CHECK("words", ONE)
    with pytest.raises(TimeoutError):
        CHECK("hang", ONE)


def test_hostile_answers_cost_their_limit_divided_by_the_workers_and_equal_ones_cost_it_once() -> None:
    CHECK.many([("warm", ONE)])
    began = time.perf_counter()
    outcomes = CHECK.many([(f"hang {i % 4}", ONE) for i in range(64)])
    spent = time.perf_counter() - began
    assert set(outcomes) == {Outcome.TIMEOUT}
    assert 0.9 < spent < 14.0  # 4 x 0.5 CPU seconds over 2 workers, on a machine that may be busy; one by one it is 16


def test_what_the_quick_checker_decides_never_reaches_a_worker() -> None:
    checked = []

    def quick(answer: str, question: Question) -> bool | None:
        checked.append(answer)
        return {"1": True, "2": False}.get(answer)

    check = BoundedChecker("tests.grading.checkers.check", quick=quick, limit_s=0.5)
    assert check.many([("1", ONE), ("2", ONE), ("1", ONE), ("3", ONE)]) == [
        Outcome.CORRECT,
        Outcome.WRONG,
        Outcome.CORRECT,
        Outcome.WRONG,
    ]
    assert checked == ["1", "2", "3"]


def test_equal_answers_to_different_questions_are_different_checks() -> None:
    assert CHECK.many([("1", ONE), ("1", Question("?", ("2",), "two"))]) == [Outcome.CORRECT, Outcome.WRONG]


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    check = BoundedChecker("tests.grading.checkers.check", limit_s=0.5, workers=1)
    assert check("1", ONE)
    pool = worker_pool(("tests.grading.checkers",), 1)
    killed = pool._idle[0].pid
    os.kill(killed, signal.SIGKILL)
    while _alive(killed):
        time.sleep(0.01)
    assert check.many([("1", ONE), ("1 ", ONE)]) == [Outcome.CORRECT, Outcome.WRONG]


def test_a_worker_writes_no_file(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="File too large"):
        CHECK.many([("write", Question("?", (str(tmp_path / "x"),), "file"))])
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = (
        "from tests.grading.test_worker_pool import CHECK, ONE\nfrom zero.grading.worker_pool import worker_pool\n"
        "CHECK.many([('1', ONE), ('2', ONE)])\npool = worker_pool(('tests.grading.checkers',), 2)\n"
        "print(pool._parent.pid, *(w.pid for w in pool._idle), flush=True)\nimport os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -9
    assert len(pids) == 3
    for _ in range(100):
        if not any(_alive(pid) for pid in pids):
            break
        time.sleep(0.1)
    assert not [pid for pid in pids if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("path", ["nowhere.to.be_found", "check", "zero.grading.nothing.check", ""])
def test_a_checker_that_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"check\.path"):
        BoundedChecker(path)


def test_ones_own_checker_needs_only_be_importable_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_checker.py").write_text("def check(answer, question):\n    return answer in question.answer\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert BoundedChecker("my_checker.check").many([("1", ONE), ("2", ONE)]) == [Outcome.CORRECT, Outcome.WRONG]


def test_plain_checkers_give_the_same_outcomes() -> None:
    def check(answer: str, question: Question) -> bool:
        raise {"t": TimeoutError, "v": ValueError, "k": KeyError}.get(answer, RecursionError)

    with pytest.warns(RuntimeWarning, match="check raised KeyError"):
        outcomes = check_many(check, [(answer, ONE) for answer in "tvkr"])
    assert outcomes == [Outcome.TIMEOUT, Outcome.UNPARSED, Outcome.FAILED, Outcome.TIMEOUT]
    assert check_many(lambda answer, question: answer in question.answer, [("1", ONE), ("2", ONE)]) == [
        Outcome.CORRECT,
        Outcome.WRONG,
    ]
