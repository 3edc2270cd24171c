"""Ordinary programs run as anywhere else; limits, deaths and refusals are facts and single lines."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sandbox.outside import survivors
from tests.sandbox.ways import ROOT, run
from zero.errors import InputError
from zero.sandbox.compiler import Compiler
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Ending, Execution, Level, Limits, Task

ORDINARY = {
    "input": ("print(int(input()) + int(input()))", b"1\n2\n", b"3\n"),
    "all input": ("import sys; print(sum(map(int, sys.stdin.read().split())))", b"1 2 3", b"6\n"),
    "input as bytes": ("import sys; print(len(sys.stdin.buffer.read()))", bytes(range(256)), b"256\n"),
    "input by number": ("import os; print(open(0, closefd=False).read() == 'ab', os.read(0, 1))", b"ab", b"True b''\n"),
    "input line by line": ("import sys\nfor line in sys.stdin: print(line.strip()[::-1])", b"ab\ncd\n", b"ba\ndc\n"),
    "much input": ("print(sum(int(x) for x in input().split()))", b"1 " * 200_000, b"200000\n"),
    "no input": ("try: input()\nexcept EOFError: print('end')", b"", b"end\n"),
    "main": ("if __name__ == '__main__': print(__name__)", b"", b"__main__\n"),
    "exit": ("print(1); raise SystemExit(0); print(2)", b"", b"1\n"),
    "threads": (
        "import threading, sys\nthreading.stack_size(1 << 25); sys.setrecursionlimit(10**6)\n"
        "def f(n): return n and f(n - 1) + 1\nthreading.Thread(target=lambda: print(f(20000))).start()",
        b"",
        b"20000\n",
    ),
    "processes' module": ("import subprocess, multiprocessing; print(1)", b"", b"1\n"),
    "asyncio": ("import asyncio\nasync def f(): print(await asyncio.sleep(0, 7))\nasyncio.run(f())", b"", b"7\n"),
    "files": ("open('x', 'w').write('7')\nprint(open('/tmp/x').read())", b"", b"7\n"),
    "temporary files": ("import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'abc'))", b"", b"3\n"),
    "libraries": ("import hashlib, zlib, sqlite3, uuid, logging, csv, html, email; print(1)", b"", b"1\n"),
    "the time": (
        "import time, datetime; print(time.localtime().tm_year == datetime.datetime.now().year)",
        b"",
        b"True\n",
    ),
    "a traceback": (
        "import traceback\ntry: 1 / 0\nexcept ArithmeticError: traceback.print_exc()\nprint(1)",
        b"",
        b"1\n",
    ),
    "chance": ("import random; print(random.random(), hash('a') % 97, sorted({'b', 'a'}))", b"", None),
    "its own signal": (
        "import os, signal\nsignal.signal(10, lambda *_: print('hup'))\nos.kill(os.getpid(), 10)",
        b"",
        b"hup\n",
    ),
    "dataclasses": ("from dataclasses import dataclass\n@dataclass\nclass A: x: int\nprint(A(1))", b"", b"A(x=1)\n"),
    "at the end": ("import atexit; atexit.register(print, 'end'); print('begin')", b"", b"begin\nend\n"),
}


def _script(source: str, stdin: bytes = b"") -> Task:
    return Task("script", source, stdin=stdin)


def test_ordinary_programs_run(sandbox: Sandbox) -> None:
    tasks = [_script(source, stdin) for source, stdin, _ in ORDINARY.values()]
    for (name, (_, _, expected)), execution in zip(ORDINARY.items(), sandbox.run(tasks), strict=True):
        assert execution.ending is Ending.FINISHED, f"{name}: {execution}"
        assert expected in (None, execution.output), f"{name}: {execution}"


def test_the_same_program_does_the_same(sandbox: Sandbox) -> None:
    source = (
        "import random\nprint(random.random(), hash('a'), list({'b', 'a', 'c'}), [random.randrange(99) for _ in 'abc'])"
    )
    other = Sandbox()
    outputs = {execution.output for s in (sandbox, other, sandbox) for execution in s.run([_script(source)] * 2)}
    other.close()
    assert len(outputs) == 1


def test_programs_leave_nothing_for_the_next(sandbox: Sandbox) -> None:
    leave = (
        "import builtins, os, sys\nopen('/tmp/x', 'w'); builtins.y = 1; os.environ['z'] = '1'; sys.modules['w'] = sys"
    )
    look = "import builtins, os, sys\nprint(os.listdir('/tmp'), hasattr(builtins, 'y'), 'z' in os.environ, 'w' in sys.modules)"
    executions = sandbox.run([_script(leave)] * 4 + [_script(look)] * 4)
    assert [e.output for e in executions[4:]] == [b"[] False False False\n"] * 4


LIMITED = [
    ("while True: pass", Limits(cpu_s=1), Ending.TIMED_OUT),
    ("import time; time.sleep(60)", Limits(wall_s=0.5), Ending.TIMED_OUT),
    ("x = bytearray(50 << 20); print(len(x))", Limits(memory_mb=256), Ending.FINISHED),
    ("x = bytearray(50 << 20)", Limits(memory_mb=64), Ending.OUT_OF_MEMORY),
    ("open('x', 'wb', 0).write(bytes(2 << 20))\nopen('y', 'wb', 0).write(bytes(2 << 20))", Limits(), Ending.FINISHED),
    ("f = open('x', 'wb', 0)\nfor _ in range(99): assert f.write(bytes(1 << 20))", Limits(file_mb=1), Ending.CRASHED),
    ("for i in range(9): open(str(i), 'wb', 0).write(bytes(1 << 20))", Limits(tmp_mb=4), Ending.CRASHED),
    ("x = [open('/dev/null') for _ in range(40)]", Limits(open_files=64), Ending.FINISHED),
    ("x = [open('/dev/null') for _ in range(40)]", Limits(open_files=32), Ending.CRASHED),
    ("print('x' * 5000)", Limits(output_kb=5), Ending.FINISHED),
    ("print('x' * 6000)", Limits(output_kb=5), Ending.TOO_MUCH_OUTPUT),
    ("#" * 2000, Limits(source_kb=2), Ending.FINISHED),
    ("#" * 3000, Limits(source_kb=2), Ending.TOO_LONG),
    ("import os\nif os.fork() == 0: print('child'); os._exit(0)\nos.wait()", Limits(fork=True), Ending.FINISHED),
    ("import os\nwhile os.fork() >= 0: pass", Limits(fork=True, processes=16, cpu_s=1, wall_s=5), Ending.CRASHED),
]


@pytest.mark.parametrize(("source", "limits", "ending"), LIMITED)
def test_limits_are_the_kernels(sandbox: Sandbox, source: str, limits: Limits, ending: Ending) -> None:
    [execution] = sandbox.run([_script(source)], limits)
    assert execution.ending is ending, execution
    assert execution.output.count(b"x") <= limits.output_kb * 1024
    assert execution.memory_mb > 0 or ending is Ending.TOO_LONG


def test_descendants_die_with_their_program(sandbox: Sandbox, tmp_path: Path) -> None:
    daemon = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: os.setsid(); os.close(1); time.sleep(1000)\nprint(1)"
    before = set(survivors())
    executions = sandbox.run([_script(daemon)] * 3, Limits(fork=True))
    assert [e.ending for e in executions] == [Ending.FINISHED] * 3
    assert set(survivors()) == before


@pytest.mark.parametrize(
    ("source", "ending", "detail"),
    [
        ("def f(:", Ending.CRASHED, "SyntaxError"),
        ("print('\udcff')", Ending.CRASHED, "UTF-8"),
        ("x = 1\0", Ending.CRASHED, "null bytes"),
        ("1 / 0", Ending.CRASHED, "ZeroDivisionError: division by zero"),
        ("raise SystemExit('no')", Ending.CRASHED, "no"),
        ("#" * (10 << 20), Ending.TOO_LONG, "over 256 KB"),
        ("", Ending.FINISHED, ""),
    ],
)
def test_what_no_program_is_costs_nothing(sandbox: Sandbox, source: str, ending: Ending, detail: str) -> None:
    [execution] = sandbox.run([_script(source)])
    assert execution.ending is ending
    assert detail in execution.detail


def test_a_dead_server_is_replaced_and_nothing_is_lost() -> None:
    sandbox = Sandbox()
    sandbox.run([_script("pass")])
    assert sandbox._server is not None
    os.kill(sandbox._server._process.pid, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="another takes over"):
        executions = sandbox.run([_script("print(1)"), _script("print(2)")])
    assert [e.output for e in executions] == [b"1\n", b"2\n"]
    sandbox.close()


TRAINER = """
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Limits, Task
print("ready", flush=True)
Sandbox().run([Task("script", "import os\\nos.fork()\\nwhile True: pass")] * 2, Limits(cpu_s=100, wall_s=100, fork=True))
"""


def test_everything_dies_with_a_killed_trainer() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, env=environment)
    assert trainer.stdout is not None and trainer.stdout.readline() == b"ready\n"
    _wait(lambda: len(survivors(trainer.pid)) >= 6)  # the server, what waits for it, two programs, their children
    trainer.kill()
    trainer.wait()
    _wait(lambda: not survivors(trainer.pid))


def _wait(until: object) -> None:
    end = time.monotonic() + 60
    while not until():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


REFUSED = """
import sys
from zero.errors import InputError
from zero.sandbox.pool import Sandbox
from zero.sandbox.records import Level, Task
{forbid}
try:
    print(Sandbox(Level(sys.argv[1])).run([Task("script", "print(1)")])[0].ending)
except InputError as error:
    print(f"error: {{error}}")
"""
# A filter of our own kind, under which this kernel behaves as others do: {number} is a call that it does not have
WITHOUT_CALL = """
import ctypes, struct
from zero.sandbox import kernel, seccomp
kernel.no_new_privileges()
code = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x00050000 | {error}), (0x06, 0, 0, seccomp.ALLOW)]
held = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(held))
kernel.system_call("seccomp", seccomp._SECCOMP, ctypes.c_uint(1), ctypes.c_uint({flags}), program)
"""
UNSHARE = 272 if os.uname().machine == "x86_64" else 97
NO_NAMESPACES = 'open("/proc/sys/user/max_user_namespaces", "w").write("0")'


@pytest.mark.parametrize(
    ("forbid", "level", "reply"),
    [
        (WITHOUT_CALL.format(number=UNSHARE, error=1, flags=0), "full", "unshare: Operation not permitted"),
        (WITHOUT_CALL.format(number=UNSHARE, error=1, flags=0), "landlock", "finished"),
        (WITHOUT_CALL.format(number=444, error=38, flags=0), "full", "no Landlock"),
        (WITHOUT_CALL.format(number=444, error=38, flags=0), "landlock", "no Landlock"),
        (WITHOUT_CALL.format(number=442, error=38, flags=0), "full", "mount_setattr"),
        (WITHOUT_CALL.format(number=9999, error=1, flags=8), "full", "seccomp: Device or resource busy"),
        (WITHOUT_CALL.format(number=9999, error=1, flags=8), "landlock", "seccomp: Device or resource busy"),
    ],
)
def test_a_kernel_that_forbids_it_is_refused_in_one_line(forbid: str, level: str, reply: str) -> None:
    output = run(["-c", REFUSED.format(forbid=forbid), level], as_nobody=False)
    assert reply in output
    assert output.count("\n") == 1
    if reply != "finished":
        assert output.startswith(f"error: questions.sandbox.level={level}: this machine forbids")
        assert ("or accept less: questions.sandbox.level=landlock" in output) == (
            level == "full" and "Landlock" not in reply
        )


REFUSED_SET = """
from zero.config.check import check, instantiate
from zero.errors import InputError
{forbid}
try:
    instantiate(check("train", ["questions=nano_code"])["questions"], "questions")
except InputError as error:
    print(f"error: {{error}}")
"""


def test_a_set_of_programs_is_refused_when_it_is_loaded() -> None:
    """Before a model is: its rows have nothing to run at load."""
    forbid = WITHOUT_CALL.format(number=UNSHARE, error=1, flags=0)
    command = [sys.executable, "-c", REFUSED_SET.format(forbid=forbid)]
    output = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True).stdout
    assert output.startswith("error: questions.sandbox.level=full: this machine forbids") and output.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to forbid namespaces for a user of its own")
def test_no_more_user_namespaces() -> None:
    inner = REFUSED.format(forbid=NO_NAMESPACES)
    command = ["unshare", "-r", "-p", "-f", "--mount-proc", os.path.realpath(sys.executable), "-c", inner, "full"]
    output = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True).stdout
    assert output.startswith("error: questions.sandbox.level=full: this machine forbids") and "No space left" in output


needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")


@needs_compiler
def test_cpp(sandbox: Sandbox) -> None:
    compiler = Compiler()
    right, wrong = compiler.compile(
        [
            '#include <cstdio>\n#include <sys/socket.h>\nint main(int n, char**) { int a, b; std::scanf("%d %d", &a, &b);'
            ' if (a < 0) return socket(AF_INET, SOCK_STREAM, 0); if (a == 0) while (true); std::printf("%d\\n", a / b); }',
            "int main( { return 0; }",
        ]
    )
    compiler.close()
    assert wrong.ending is Ending.CRASHED and "error" in wrong.detail
    assert right.ending is Ending.FINISHED and right.output[:4] == b"\x7fELF"
    inputs = (b"6 3", b"1 0", b"-1 1", b"0 1")
    results = sandbox.run([Task("binary", binary=right.output, stdin=stdin) for stdin in inputs], Limits(cpu_s=1))
    assert results[0].output == b"2\n" and results[0].ending is Ending.FINISHED
    assert [r.ending for r in results[1:]] == [Ending.CRASHED, Ending.FORBIDDEN, Ending.TIMED_OUT]
    assert results[2].attempt == "network"


def test_cpp_asks_for_a_compiler_and_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"questions.sandbox.level=full"):
        Compiler(Level.LANDLOCK)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"language=cpp: no compiler"):
        Compiler()


def test_a_checker_gets_files_and_arguments(sandbox: Sandbox) -> None:
    source = "import sys\nprint(*[open(name).read() for name in sys.argv[1:]])"
    task = Task("script", source, arguments=("a.txt", "b.txt"), files={"a.txt": b"1", "b.txt": b"2", "../../c": b"3"})
    [execution] = sandbox.run([task])
    assert execution.output == b"1 2\n"


def test_executions_are_in_order_and_cost_something(sandbox: Sandbox) -> None:
    executions = sandbox.run([_script(f"print({n})") for n in range(12)])
    assert [int(e.output) for e in executions] == list(range(12))
    assert all(isinstance(e, Execution) and 0 < e.cpu_s < 2 and e.memory_mb > 1 for e in executions)
