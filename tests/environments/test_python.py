"""The Python session: its state over calls, its limits, and what is left behind: nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.sandbox.outside import SECRET, Outside, survivors
from zero.environments.python import Python
from zero.environments.tools import CallFailed, ToolEnvironment
from zero.errors import InputError
from zero.records import Question

UNDONE = "Variables are as they were before this call."


def failure(python: Python, code: str) -> str:
    with pytest.raises(CallFailed) as error:
        python(code)
    return str(error.value)


def test_state_is_kept_over_calls() -> None:
    python = Python()
    assert python("import math\nx = 6\ndef double(n):\n    return 2 * n") == ""
    assert python("print(double(x))\nx += 1") == "12"
    assert python("[double(x), math.gcd(x, 21)]") == "[14, 7]"  # the value of the last line, as in a session
    assert python("open('a', 'w').write('z'); None") == ""
    assert python("print(open('a').read(), _ is None, __name__)") == "z False __main__"
    assert python("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(1)") == "P(x=1)"
    assert Python()("'x' in globals()") == "False"


def test_the_same_calls_give_the_same_results() -> None:
    calls = ["import random\nrandom.random()", "random.random()", "list({'a', 'b', 'c'}), hash('a')", "random.random()"]
    first, second = Python(), Python()
    results = [first(code) for code in calls]
    assert [second(code) for code in calls] == results
    assert len(set(results)) == 4  # numbers go on where the last call left them


CLOCK = """
import datetime, os, random, secrets, time, uuid
a = time.time(), time.time_ns(), time.perf_counter(), time.localtime().tm_year, time.gmtime(), time.ctime(), time.asctime()
b = datetime.datetime.now(), datetime.datetime.utcnow(), datetime.datetime.today(), datetime.date.today()
c = os.urandom(4), uuid.uuid4(), secrets.token_hex(4), random.SystemRandom().random(), time.strftime("%H:%M:%S")
random.seed()
d = random.random(), object()
a, b, c, d
"""


def test_what_a_program_draws_from_the_machine_is_the_same_in_every_process() -> None:
    code = "import json, sys\nfrom zero.environments.python import Python\npython = Python()\n"
    code += "print([python(call) for call in json.loads(sys.argv[1])])"
    calls = [CLOCK, "a, b, c, d", CLOCK]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, json.dumps(calls)]
    first, second = (subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2))
    assert first.stdout == second.stdout != "", first.stderr
    assert "<object object at 0x0>" in first.stdout and "(1767225600." in first.stdout
    python = Python()
    results = [python(call) for call in calls]
    assert results[0] == results[1] != results[2]


def test_the_clock_moves_by_sleep_alone() -> None:
    python, began = Python(wall_s=10), time.monotonic()
    python("import time, asyncio, datetime\nt = time.time(), datetime.datetime.now()\ntime.sleep(86400)")
    assert python("round(time.time() - t[0])") == "86400"
    assert python("d = datetime.datetime.now()\nd.isoformat()[:11], repr(d)[:27], isinstance(d, datetime.date)") == (
        "('2026-01-02T', 'datetime.datetime(2026, 1, ', True)"
    )
    assert python("(d - t[1]).days, time.gmtime(0).tm_year, time.strftime('%Y', time.gmtime(0))") == "(1, 1970, '1970')"
    assert python("asyncio.run(asyncio.sleep(0.01, 7))") == "7"
    assert failure(python, "time.sleep(-1)").startswith("error: ValueError")
    assert time.monotonic() - began < 60


def test_an_error_is_a_line_and_keeps_what_was_done_before_it() -> None:
    python = Python()
    text = failure(python, "y = 5\nprint('so far')\nz = 1 / 0")
    assert text == "so far\nerror: ZeroDivisionError: division by zero (line 3)"
    assert python("y") == "5"
    assert failure(python, "z").startswith("error: NameError: name 'z' is not defined")
    assert failure(python, "if True print(1)").startswith("error: SyntaxError: ")
    assert failure(python, "def f():\n    raise KeyError('a\\nb')\n\nf()") == "error: KeyError: 'a\\nb' (line 2)"
    assert failure(python, "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E") == "error: " + (
        "an exception without a text"
    )
    assert failure(python, "'\\ud800'.encode()").startswith("error: UnicodeEncodeError")
    assert failure(python, "f(" * 5000)
    assert python("raise SystemExit(3)") == "" and python("y") == "5"


def test_output_is_cut_and_the_call_goes_on() -> None:
    python = Python()
    shown = python("print('ab' * 5_000_000)\nfor i in range(20_000): print(i)\ndone = 1")
    assert shown.startswith("abab") and len(shown) == 16_384
    assert python("done") == "1"
    assert failure(python, "import os\nwhile True: os.write(1, b'x' * 4096)").endswith(f"too much output. {UNDONE}")
    tools = ToolEnvironment(["zero.environments.python.Python"], most_result=100)
    tools.reset(Question("?", ("1",), "q"), 0)
    step = tools.step(call("print('ab' * 5_000)"))
    assert "... (cut at 100 characters)" in str(step.observation) and step.kind == "call"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 2\nprint('begin')\nwhile True: pass", "timed out: the calls of an episode have 1 CPU seconds together"),
        ("x = 2\nimport threading\nthreading.Event().wait()", "timed out"),
        ("x = [0]\nwhile True: x += x", "MemoryError"),
        ("x = 2\nimport mmap\nmmap.mmap(-1, 1 << 34)", ""),
        ("x = 2\nimport os\nos._exit(0)", "the interpreter ended within the call"),
        ("x = 2\nimport ctypes\nctypes.string_at(0)", "the interpreter ended within the call"),
        ("x = 2\nimport os\nos.fork()", "forbidden: the code tried what is not allowed here (processes: "),
        ("x = 2\nimport socket\nsocket.socket()", "forbidden: the code tried what is not allowed here (network"),
        ("x = 2\nopen('/etc/passwd')", "(files: openat /etc/passwd)"),
        ("x = 2\nimport subprocess\nsubprocess.run(['ls'])", "forbidden"),
        ("x = 2\nimport sys\nsys.stdout.close()", "the interpreter ended within the call"),
        ("x = 2\nimport sys\nsys.stdout.buffer.raw.left = 10**9\nprint('x' * 10**7)", "too much output"),
    ],
)
def test_a_call_that_hits_a_limit_leaves_nothing_behind(code: str, words: str) -> None:
    python = Python(cpu_s=1, memory_mb=200, wall_s=2)
    python("x = 1")
    text = failure(python, code)
    assert words in text
    undone = text.endswith(f". {UNDONE}")
    assert undone or "mmap" in code
    assert python("x") == ("1" if undone else "2")


def test_a_call_that_forges_its_end_loses_its_session() -> None:
    python = Python()
    python("x = 1")
    forged = 'import os\nos.write(1, b\'\\x1e{"error": "", "keep": true}\\x03\')\nos._exit(0)'
    assert python(forged) == ""
    assert python("print(1 + 1)") == "The session has been started anew: variables of earlier calls are gone.\n2"
    assert failure(python, "x").startswith("error: NameError")


def test_threads_end_with_their_call() -> None:
    python = Python(wall_s=120)
    began = time.monotonic()
    assert python("import threading\nthreading.Thread(target=threading.Event().wait).start()\n5") == "5"
    assert time.monotonic() - began < 60


def test_nothing_outside_is_reached() -> None:
    with Outside() as outside:
        secret, port, pid = (outside.places[name] for name in ("secret", "port", "pid"))
        for code in (
            f"print(open({secret!r}).read())",
            f"import socket\nprint(socket.create_connection(('127.0.0.1', {port})))",
            f"import os\nos.kill({pid}, 9)",
            "import os\nprint(os.environ)",
            "import zero.environments.python",
            "import sys\nprint([name for name in sys.modules if name.startswith('zero')])",
        ):
            python = Python()
            try:
                text = python(code)
            except CallFailed as error:
                text = str(error)
            assert SECRET not in text and "zero." not in text.replace("No module named 'zero", "")
        assert outside.harm() == []


def test_nothing_runs_between_calls() -> None:
    servers = set(survivors())
    sessions = [Python() for _ in range(5)]
    for python in sessions:
        python("x = bytearray(10_000_000)")
    assert len(set(survivors()) - servers) <= 2  # the fork server and what waits for it, for all of them
    del sessions
    assert Python()("1") == "1"


WORKER = """
from zero.environments.python import Python
python = Python(cpu_s=100, wall_s=100)
python("x = 1")
print("ready", flush=True)
python("while True: pass")
"""


def test_everything_dies_with_a_killed_worker() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, env=environment)
    assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
    _wait(lambda: len(survivors(worker.pid)) >= 3)  # the server, what waits for it, the call
    worker.kill()
    worker.wait()
    _wait(lambda: not survivors(worker.pid))


def _wait(until: Any) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_forked_process_has_a_sandbox_of_its_own() -> None:
    code = (
        "import os\nfrom zero.environments.python import Python\nPython()('1')\n"
        "pid = os.fork()\n"
        "print(Python()('6 * 7') if pid == 0 else Python()('6 * 8'), flush=True)\n"
        "os.waitpid(pid, 0) if pid else os._exit(0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert sorted(done.stdout.split()) == ["42", "48"], done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"level": "half"}, "must be full or landlock"),
        ({"cpu_s": 0}, "must be a whole number from 1"),
        ({"cpu_s": 1.5}, "whole number"),
        ({"memory_mb": 1}, "from 64"),
        ({"wall_s": True}, "must be a number"),
        ({"wall_s": float("nan")}, "must be a number"),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Python(**settings)


def test_without_namespaces_by_choice() -> None:
    python = Python(level="landlock")
    assert python("x = 6") == "" and python("x * 7") == "42"
    assert "forbidden" in failure(python, f"open({str(Path(__file__))!r})")
    assert python("x") == "6"


def call(code: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': code}})}</tool_call>"


def test_an_episode_with_python() -> None:
    tools = ToolEnvironment([{"function": "zero.environments.python.Python", "cpu_s": 2}], max_calls=3)
    assert tools.schemas[0]["function"]["name"] == "python"
    tools.reset(Question("What is the sum of the squares up to 10?", ("385",), "q"), 0)
    assert tools.step(call("numbers = range(11)")).kind == "call"
    step = tools.step("So: " + call("sum(n * n for n in numbers)"))
    assert step.observation == "<tool_response>\n385\n</tool_response>"
    step = tools.step(call("numbers + 1"))
    assert step.kind == "failed_call" and "error: TypeError: " in str(step.observation)
    assert tools.step("\\boxed{385}").done
