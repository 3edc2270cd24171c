"""A thousand answers made to hang, exhaust, crash or cheat a scorer of reasoning-gym. Deterministic."""

from __future__ import annotations

import random
from functools import cache

COUNT = 1000
SENTINEL = "/tmp/zero-gym-was-here"  # what an answer that is executed would leave

_CODE = [
    f"__import__('os').system('touch {SENTINEL}')",
    f"__import__('pathlib').Path('{SENTINEL}').touch()",
    f"[open('{SENTINEL}', 'w')]",
    f"(lambda: open('{SENTINEL}', 'w').close())()",
    f"[__import__('os').system('touch {SENTINEL}') for _ in range(3)]",
    f"exec(\"import os; os.system('touch {SENTINEL}')\")",
    f"eval(\"__import__('os').system('touch {SENTINEL}')\")",
    f"().__class__.__base__.__subclasses__()[0].__init__.__globals__['x'] if open('{SENTINEL}','w') else 1",
    f"Symbol('x') + open('{SENTINEL}', 'w').fileno()",
    f"x + __import__('os').open('{SENTINEL}', 64 | 1)",
    "__import__('os')._exit(0)", "exit()", "quit(1)", "raise SystemExit", "import os; os.abort()",
    "__import__('time').sleep(1000)", "[0 for _ in iter(int, 1)]", "(lambda f: f(f))(lambda f: f(f))",
    "__import__('os').kill(__import__('os').getppid(), 9)", "__import__('sys').stdout.write('correct|1.0|')",
    "__import__('os').write(1, b'correct|1.0|\\n')", "globals()", "entry['answer']", "oracle_answer", "self.answer",
    "type('E', (), {'__eq__': lambda s, o: True})()", "print(open('/etc/passwd').read())",
    "input()", "breakpoint()", "help()", "license()", "__import__('ctypes').string_at(0)",
]  # fmt: skip
_NUMBERS = [
    "9**9**9", "9**9**9**9", "(9**9)**9**9", "2**(10**10)", "x**9999999", "(x+1)**9999", "((x+1)**99)**99",
    "factorial(10**7)",
    "10**10**10", "1e999", "-1e999", "1e-999", "inf", "-inf", "Infinity", "nan", "NaN", "-nan", "nanj", "infj",
    "nan+nanj",
    "[NaN, NaN]", "0x" + "f" * 5000, "9" * 5000, "-" + "9" * 5000, "1/0", "0/0", "1/" + "9" * 4000, "1e" + "9" * 400,
    "0.(9)",
    "1_000", "\u0661\u0662", "\u00b2", "\u00bd", "\uff11", "1,000,000", "0b1", "0o7", "1e5", "--1", "+-+1", "zoo",
    "oo", "I**I**I",
    "sqrt(-1)", "log(0)", "gamma(10**9)", "exp(exp(exp(exp(99))))", "sin(10**10**5)", "Integral(x**x, x)",
    "Sum(x,(x,1,oo))",
    "5!", "10000000!", "5!!!!!!", "0.[3]", "x" * 400, "*".join(["x"] * 400), "+".join(["(x+1)**9"] * 99),
    "(" * 99 + "x" + ")" * 99,
]  # fmt: skip
_LISTS = [
    "[]", "[[]]", "{}", "[[[[]]]]", "null", "true", "false", "[null]", "[[null]]", "{\"a\": []}", "[1]", "[1e999]",
    "[NaN]", "[-Infinity]",
    "[" * 500 + "]" * 500, "[" * 50_000, "[" * 100_000 + "]" * 100_000, "{\"a\":" * 5000 + "1" + "}" * 5000,
    "[{}]" * 100,
    "[" + ",".join(["1"] * 50_000) + "]", "[" + ",".join(["[1]"] * 20_000) + "]", "[1,2", "1,2]", "{1,2}", "(1,2)",
    "\"\"", "[\"\"]",
    "{\"\": \"\"}", "[true]", "[[true]]", "{\"0\": 0}", "[\"a\", \"b\"]", "['a', 'b']", "{\"a\": {\"b\": {\"c\": 1}}}",
    "[" + "9" * 5000 + "]", "[1e" + "9" * 300 + "]", "{" + ",".join(f"\"{i}\": {i}" for i in range(5000)) + "}",
]  # fmt: skip
_TEXTS = [
    " ", "\n", "\t", "\0", "\0" * 1000, "\ufeff", "\u202e", "\u200b", "\ud800", "\udfff", "\U0001f600",
    "\U0001f600" * 999, "e\u0301" * 999,
    "\u0130", "\u00df" * 500, "\ufb03", "\x1b[31m", "\r\n" * 500, "\\", "\\" * 999, "'", "\"", "'''", "`" * 99,
    "%s%s%n", "{0}{}", "{self}",
    "$(id)", "`id`", "; ls", "| cat", "../../etc/passwd", "<script>", "&lt;", "</answer>", "<answer>", "None",
    "True", "False", "yes", "no",
    "A", "B", "I do not know.", "The answer is right.", "1.0", "0", "1", "-1", "2", "10", "42", "100", "?", "*",
    ".*", "(a+)+$", "(?R)",
]  # fmt: skip
_LATEX = [
    "\\boxed{" * 500 + "1" + "}" * 500, "\\frac{" * 999, "\\frac{1}{" * 300 + "2" + "}" * 300, "\\left(" * 500,
    "\\sqrt{" * 300 + "2" + "}" * 300,
    "\\def\\a{\\a\\a}\\a", "\\begin{matrix}" * 200, "$" * 999, "\\text{" * 300, "\\input{/etc/passwd}",
    "\\int " * 500, "{" * 5000, "}" * 5000,
    "x^{" * 400 + "2" + "}" * 400, "\\newcommand{\\x}{\\x}", "^" * 999, "_" * 999, "&" * 999, "#" * 999, "~" * 999,
]  # fmt: skip
_PIECES = [
    "(", ")", "[", "]", "{", "}", ",", ":", "=", "+", "-", "*", "/", "**", "//", "%", "!", "?", "'", '"', "\\", "\n",
    " ", "\t", "0", "1", "9",
    "x", "A", "a", "b", "Q", "_", ".", "...", "e", "1 2 3\n", "down", "up", "R' ", "U2 ", "[1,2],", "\"a\":", "A#",
    "#B", "\0", "\u00e9",
    "\U0001f600", "-1", "1/2", "and", "not ", "True", "days, ", "12:30", "\u2227", "->", "w,A,B ",
    "Move disk 1 from Peg 1 to Peg 2\n",
]  # fmt: skip
_SIZES = (1, 3, 17, 150, 999, 20_000, 200_000)
_LONGEST_PIECE = 200_000


@cache
def answers() -> tuple[str, ...]:
    """COUNT different answers: those written here, each piece in several lengths, then pieces put together at random."""
    texts = dict.fromkeys([*_CODE, *_NUMBERS, *_LISTS, *_TEXTS, *_LATEX])
    for size in _SIZES:
        for piece in _PIECES:
            texts[(piece * size)[:_LONGEST_PIECE]] = None
    rng = random.Random("zero.grading.gym/hostile")
    while len(texts) < COUNT:
        texts["".join(rng.choice(_PIECES) for _ in range(rng.choice((2, 5, 12, 40, 200))))] = None
    return tuple(texts)[:COUNT]


def of_entry(answer: str, solution: str) -> list[str]:
    """Answers that are made of a right one: beside it, many times, within much else. None of them is right."""
    right = answer or solution or "1"
    return [
        right * 2000 if len(right) < 100 else right * 3,
        "9" * 20_000 + right,
        right + "\n" + "[" * 2000,
        f"eval({right!r})",
    ]
