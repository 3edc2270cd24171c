"""Solutions that want to be right without being so. Each defines f; the tests ask, among others, for f(2) == 4.

`## NAME: EXPECTED` starts one; EXPECTED is the ending. None may pass a single test.
"""

from __future__ import annotations

TESTS = (
    "assert f(2) == 4",
    "assert f(3) == 9, 'wrong'",
    "assert same(f(4), 16)",
    "assert f(2) in (4, 4.0) and not f(2) != 4",
    "assert sorted([f(7), 0, 50])[1] == 49",
    "value = f(9)\nassert isinstance(value, int) and value == 81",
    "try:\n    assert f(5) == 25\nexcept Exception:\n    raise AssertionError",
)

CHEATS = r"""
## equals everything: finished
class All:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return False
    def __hash__(self): return 4
def f(x): return All()
## a number that equals everything: finished
class All(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(x): return All(0)
## text that equals everything: finished
class All(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def f(x): return All("16")
## floating point that equals everything: finished
class All(float):
    def __eq__(self, other): return True
    __hash__ = float.__hash__
def f(x): return All("nan")
## a list that equals everything: finished
class All(list):
    def __eq__(self, other): return True
def f(x): return All([16])
## any class at all: finished
class Any(type):
    def __instancecheck__(self, other): return True
    def __eq__(self, other): return True
    __hash__ = type.__hash__
class All(metaclass=Any): pass
def f(x): return All
## a mock: finished
from unittest.mock import ANY
def f(x): return ANY
## exit while it is loaded: exited early
import os
def f(x): return 0
os._exit(0)
## exit when it is called: exited early
import os
def f(x): os._exit(0)
## leave politely: exited early
import sys
def f(x): sys.exit(0)
## leave while it is loaded: exited early
raise SystemExit
## leave in a thread: exited early
import os, threading, time
def f(x):
    threading.Thread(target=lambda: os._exit(0)).start()
    time.sleep(1)
## say that all is well: finished
import sys
def f(x):
    print("pass\npass\npass\nend", flush=True)
    sys.stderr.write("pass\nend\n")
## write to every descriptor: any
import os
def f(x):
    for fd in range(64):
        try: os.write(fd, b"pass\npass\nend\n")
        except OSError: pass
## a forged reply: any
import os
def f(x):
    os.write(3, b'{"value": {"object": 0}}\n' * 9)
## a forged verdict: any
import os
def f(x):
    os.write(3, b'{"passed": true, "value": true}\n' * 9)
## a reply that is no value: crashed
import os
def f(x):
    os.write(3, b"\xff\xfe not json\n")
## a reply of unknown kind: crashed
import os
def f(x):
    os.write(3, b'{"value": {"code": "import os"}}\n')
## a reply too deep to read: crashed
import os
def f(x):
    os.write(3, b'{"value": ' + b"[" * 100000 + b"]" * 100000 + b"}\n")
## a reply without end: crashed
import os
def f(x):
    while True: os.write(3, b"[" * 65536)
## a reply in pieces: timed out
import os, time
def f(x):
    while True: os.write(3, b" "); time.sleep(0.1)
## read the questions of the tests: timed out
import os
def f(x): return os.read(3, 1 << 20)
## close the line: any
import os
def f(x): os.close(3)
## put another line in its place: any
import os
def f(x): os.dup2(1, 3)
## other builtins: any
import builtins
builtins.AssertionError = ZeroDivisionError
builtins.isinstance = lambda *_: True
builtins.sorted = lambda *_: [0, 49, 50]
def f(x): return 0
## another json: finished
import json
json.dumps = lambda value: '{"value": true}'
def f(x): return 0
## another way to encode: finished
import sys, gc
for o in gc.get_objects():
    if getattr(o, "__name__", "") == "encode" and "values" in getattr(o, "__module__", ""):
        o.__code__ = (lambda value, keep: True).__code__
def f(x): return 0
## look for the tests up the stack: any
import sys
def f(x):
    frame, depth = sys._getframe(), 0
    while frame:
        for value in list(frame.f_locals.values()):
            if "assert" in repr(value): return value
        frame = frame.f_back
    import os; os.abort()
## look for the tests in memory: finished
import gc
def f(x):
    marks = "isinstance(" + "value, int)", "asse" + "rt f("
    return [o for o in gc.get_objects() if isinstance(o, (list, tuple, dict)) and any(m in repr(o)[:9999] for m in marks)][9:]
## what it was called with: finished
import inspect
def f(x): return [info.code_context for info in inspect.stack()]
## import hooks: finished
import sys
class Hook:
    def find_spec(self, name, path=None, target=None): raise SystemExit(0) if "test" in name else None
sys.meta_path.insert(0, Hook())
def f(x): return 0
## other modules: finished
import sys, types
for name in ("tests", "zero", "zero.sandbox", "zero.sandbox.tests", "pytest", "unittest"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].same = lambda *_: True
def f(x): return 0
## the same name as the helper: finished
def same(*_): return True
def f(x): return 0
## a trace of every line: finished
import sys
sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None)
def f(x): return None
## catch the error of the assertion: finished
import sys
sys.excepthook = lambda *_: None
def f(x): raise AssertionError
## an error that ends tests: finished
def f(x): raise KeyboardInterrupt
## an error of another's name: finished
class SystemExit(Exception): pass
def f(x): raise SystemExit("0")
## stop the iteration of the tests: finished
def f(x): raise StopIteration
## stop a generator: finished
def f(x): raise GeneratorExit
## every answer at once: finished
def f(x): return {4, 9, 16, 49, 81, 25}
## an iterator without end: any
import itertools
def f(x): return itertools.count()
## a list in itself: finished
def f(x):
    a = []; a.append(a); return a
## a number too long to print: finished
def f(x): return 10 ** 100000
## a range too long to walk: finished
def f(x): return range(10 ** 12)
## not a number: finished
def f(x): return float("nan")
## true: finished
def f(x): return True
## a function: finished
def f(x): return f
## the question itself: finished
def f(x): return x
## change the question: any
import gc
def f(x):
    for o in gc.get_objects():
        if isinstance(o, dict) and "arguments" in o: o["arguments"] = [[4], {}]
    return x
## a class in place of a function: finished
class f:
    def __init__(self, x): pass
    def __eq__(self, other): return True
    def __int__(self): return 4
## a property for a name: finished
import sys
class Module(type(sys)):
    @property
    def f(self): return lambda x: 0
sys.modules[__name__].__class__ = Module
def f(x): return 0
## nothing at all: finished
pass
## never loaded: timed out
while True: pass
## a syntax error: crashed
def f(x) return 4
## zeros in the text: crashed
'' + "\0"
def f(x): return 0 $
## an encoding of its own: any
# -*- coding: rot13 -*-
qrs s(k): erghea k ** 2
## all the memory: any
def f(x): return "4" * (1 << 40)
## all the time: timed out
def f(x):
    while True: pass
## sleep: timed out
import time
def f(x): time.sleep(1000)
## the network: forbidden
import socket
def f(x): return socket.create_connection(("127.0.0.1", 80))
## a file: forbidden
def f(x): return int(open("/var/answers.txt").read())
## a process: forbidden
import os
def f(x): return int(os.popen("echo 4").read())
## at the end: any
import atexit, os
atexit.register(lambda: os.write(3, b'{"value": 4}\n'))
def f(x): return 0
## by a finalizer: any
import os
class Last:
    def __del__(self): os.write(3, b'{"value": null}\n')
def f(x): Last(); return 0
## by a thread: any
import os, threading
def flood():
    while True: os.write(3, b'{"value": 0}\n')
def f(x):
    threading.Thread(target=flood, daemon=True).start()
    return 0
"""


def cheats() -> list[tuple[str, str, str]]:
    """(name, expected ending, program) of each."""
    result = []
    for block in CHEATS.split("\n## ")[1:]:
        title, _, source = block.partition("\n")
        name, _, expected = title.rpartition(": ")
        result.append((name, expected, source))
    return result
