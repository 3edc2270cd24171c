r"""Strict equality as a table: what a mathematician would call the same answer, and what other graders wrongly accept.
One row a line, `answer ~ reference`, held in both directions."""

from __future__ import annotations

import time

import pytest

from tests.data.grading import gold_failures, swap_failures, swaps
from zero.grading.maths.latex import read
from zero.grading.maths.symbolic import strict_equal
from zero.grading.maths.values import Point, value

EQUAL = r"""
\frac{2}{4} ~ 1/2
{1,2} ~ {2,1}
\{1,2\} ~ \{2,1\}
1,2 ~ 2,1
1, 234 ~ 234,1
100,200 ~ 200, 100
\{1,1,2\} ~ \{1,2\}
\{5\} ~ 5
2^{10} ~ 1024
2^{10}-1 ~ 1023
5! ~ 120
\binom{5}{2} ~ 10
0.1\overline{6} ~ 1/6
\sqrt[3]{-8} ~ -2
5 million ~ 5000000
44000000 ~ 4.4\times10^7
4.4e7 ~ 4.4\times10^7
1\,000 ~ 1000
10\% ~ 10
f(x)=x+1 ~ x+1
f(n)=n^2 ~ f(x)=x^2
f(x)=1 ~ f(y)=1
f^{-1}(x)=\frac{x-1}{2} ~ \frac{x}{2}-\frac12
y=2x+3 ~ 2x+3
x=5 ~ 5
x=5 ~ 2x=10
2x+y=3 ~ y=3-2x
xy=1 ~ 2xy=2
(x,y)=(1,2) ~ (1,2)
x=\pm 2 ~ 2,-2
x=1,2 ~ x=2 or x=1
x=1 \text{ or } x=2 ~ 2,1
x\in\{1,2\} ~ x=1 or x=2
3\pm2\sqrt2 ~ 3+2\sqrt2, 3-2\sqrt2
\{1\pm\sqrt{5},-2\} ~ -2, 1+\sqrt5, 1-\sqrt5
x<2 ~ (-\infty,2)
x<2 ~ 2>x
x<2 ~ 3x<6
x \in [-2,7] ~ [-2,7]
x \in [-2,7] ~ -2\le x\le 7
3 \ge x > 1 ~ (1,3]
x<1 or x>3 ~ (-\infty,1)\cup(3,\infty)
x \ne 3 ~ (-\infty,3)\cup(3,\infty)
(0,9) \cup (9,36) ~ (9,36)\cup(0,9)
k \geqslant 2 ~ [2,\infty)
\mathbb{R} ~ (-\infty,\infty)
\ln 2 ~ \log 2
\log_2 8 ~ 3
\frac{\pi}{2} ~ 90^\circ
90^\circ ~ 90
(45^{\circ},60^{\circ}) ~ (45,60)
45^\circ, 135^\circ ~ 135,45
\frac{270}7\text{ degrees} ~ \frac{270}{7}^\circ
e^{i\pi/3} ~ \frac12+\frac{\sqrt3}{2}i
\sqrt{-4} ~ 2i
e^{i\pi}+1 ~ 0
\cos(\pi/2)+3 ~ 3
\text{(B)}\ 5 ~ 5
(B) ~ \text{B}
5 \text{ cm} ~ 5
6\sqrt2 \text{ cm} ~ \sqrt{72}
12\pi \text{ cm}^2 ~ 12\pi
8:34 pm ~ 8\!:\!34 \text{ p.m.}
3:00 ~ 03:00
2:3 ~ 2 : 3
x+1 ~ 1+x
x**2 ~ x^2
(x+1)^2 ~ x^2+2x+1
(1+x)^{999} ~ (x+1)^{999}
\frac{\sqrt2}{2} ~ \frac{1}{\sqrt2}
sqrt(5) ~ \sqrt{5}
\frac{1}{2}bh ~ bh/2
t/RC ~ \frac{t}{RC}
\frac{1}{\sqrt{2}}c ~ \frac{c}{\sqrt{2}}
-\frac{1}{2}X^{-\frac{1}{2}} ~ -\frac{1}{2\sqrt{X}}
\sqrt{ab} ~ \sqrt{a}\sqrt{b}
|x-1| ~ |1-x|
\frac12\ln|x| ~ \ln\sqrt{|x|}
\sin 2x ~ 2\sin x\cos x
\cos^2 x ~ 1-\sin^2 x
\sin^{-1} x ~ \arcsin x
\frac{e^{at}-e^{-at}}{2a} ~ \frac{\sinh(at)}{a}
\binom{2n}{n} ~ \frac{(2n)!}{(n!)^2}
\lceil n/2\rceil ~ \lfloor (n+1)/2 \rfloor
\frac{dx}{dt} = kx - a ~ \frac{d x}{d t}=k x-a
y^{\prime}+ry-rx(t)=0 ~ y'+ry=rx(t)
101_2 ~ 101_{2}
\begin{pmatrix}1/5\\-18/5\end{pmatrix} ~ \frac15\begin{bmatrix}1\\-18\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} ~ (1,2)
\text{even} ~ Even
\text{June 20} ~ June 20
\text{Softball, Kickball} ~ \text{Kickball}, \text{Softball}
"""
DIFFERENT = r"""
a+b ~ c+b
t^2 ~ h^2
\frac{a}{b} ~ \frac{c}{b}
\sqrt{x}+c ~ \sqrt{x}+d
x-a ~ x-d
5 east ~ 5 west
seat ~ east
June 20 ~ June 21
AB ~ ab
x ~ X
1,234 ~ (1,234)
12,34 ~ 1234
1,2 ~ 12
11 ~ 1 1
12_{3} ~ 12_{4}
101_2 ~ 101
101_2 ~ 5
5 m ~ 5 s
\sqrt2\text{ cm} ~ \sqrt2\text{ m}
6m ~ 6
60 \text{ miles} ~ 60 \text{ mph}
8:34 am ~ 8:34 p.m.
$5 ~ 5 cents
50% ~ 0.5
0.333 ~ 1/3
1.41 ~ \sqrt{2}
1.4142135623730950488016887242096980785696718753769480731766797379907324784621070388503875343276415727 ~ \sqrt2
262537412640768744 ~ e^{\pi\sqrt{163}}
2^{100000}-1 ~ 2^{100000}
2000! ~ 2000!+1
10^{10^6}+1 ~ 10^{10^6}
e\cdot10^{-70} ~ \pi\cdot10^{-70}
2+3 ~ 5
1/0 ~ 1
\frac{1}{0} ~ \frac{2}{0}
(1,2) ~ (2,1)
[1,2] ~ (1,2)
1,2 ~ (1,2)
-2,-2 ~ -2
1,1,2 ~ 1,2,2
2:3 ~ 2/3
x=5 ~ y=5
x=5 ~ 6
x=y ~ x
x=1, y=2 ~ 2,1
x\in\{1,2\} ~ y=1 or y=2
x<2 ~ y<2
x<2 ~ x\le2
x<2 ~ -x<-2
x<2 ~ (-\infty,2]
g(x)=x+1 ~ f(x)=x+1
f(y)=x+1 ~ f(x)=x+1
f(x)=x+1 ~ f(x)=1
\sqrt{x^2} ~ x
|x| ~ x
\ln|x| ~ \ln x
x^{9999}+1 ~ x^{9998}+1
I(0)e^{-t} ~ J(0)e^{-t}
\frac{dx}{dt} ~ \frac{x}{t}
\lfloor n/1000 \rfloor ~ \lfloor n/1001\rfloor
\lfloor\sqrt{n-1}\rfloor ~ \lfloor\sqrt{n-2}\rfloor
90^\circ ~ \frac{\pi}{3}
45^\circ, 135^\circ ~ 135,46
\angle ABC ~ \angle BAC
(A)+1 ~ +1
(B) 5 ~ (C) 5
\begin{pmatrix}1&2\end{pmatrix} ~ \begin{pmatrix}1\\2\end{pmatrix}
P(A) ~ P(B)
"""
NO_ANSWERS = [
    "",
    "$",
    "\\sum_{k=1}^n k",
    "\\int_0^1 x",
    "1 1",
    "x2",
    "(1,2",
    "\\frac{1}",
    "x^",
    "2^2^2",
    "\u0665",
    "5\0",
]
NO_ANSWERS += [
    "because every integer divides its own square",
    "\\begin{pmatrix}1&2\\\\3\\end{pmatrix}",
    "(1,2)+3",
    "x" * 3000,
]
GOLDS = [
    "72",
    "0.50",
    "\\frac{3}{4}",
    "x^2-2x+1",
    "2\\sqrt{5}\\text{ cm}",
    "(-\\infty,3]",
    "\\text{(B)}",
    "f(x)=3",
    "101_2",
]
GOLDS += [
    "\\frac{dv}{dt}+\\omega v=0",
    "\\{1,2\\}",
    "$9^{\\circ}$,$z$",
    "\\text{Zoe}",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
]
HOSTILE = ["9**9**9**9+x", "9^{9^{9^{9}}}+x", "10^{10^{10}}", "(10000!)!", "(2000!)^{2000}", "1999! " * 200, "x!" * 400]
HOSTILE += [
    "(" * 10_000 + "1" + ")" * 10_000,
    "{" * 990 + "1" + "}" * 990,
    "2^{" * 39 + "2" + "}" * 39,
    "x+" * 499 + "x",
]
HOSTILE += ["x/" * 499 + "x", "1+" * 50_000 + "1", "\\sqrt" * 250 + "2", "\\sqrt{" * 39 + "x" + "}" * 39, "\ud800+x"]
HOSTILE += [
    "\\lfloor n/7\\rfloor " * 100,
    "(x+y+z+w)^{50}" * 60,
    "1,2," * 200 + "x",
    "\\binom{n}{k}" * 90,
    "\\pm1" * 400,
]
HOSTILE += [
    ", ".join(f"\\sin({k}+x)" for k in range(90)),
    "x<" * 600 + "y",
    "\\{" * 35 + "1,2" + "\\}" * 35,
    "m " * 900,
]
HOSTILE += ["|x" * 500, "x" + "'" * 1900, "e^{" * 30 + "e" + "}" * 30, "\\sin(10^{400})", "f(" * 39 + "x" + ")" * 39]
HOSTILE += ["\\binom0\\pi", "\\ln^{1\\cup 2}x"]
SECONDS = 5.0  # each takes under 0.3 on an idle core, most of them under 0.01


def rows(table: str) -> list[tuple[str, str]]:
    pairs = [line.split(" ~ ") for line in table.strip().splitlines()]
    return [(one, other) for one, other in pairs] + [(other, one) for one, other in pairs]


def equal(answer: str, reference: str) -> bool:
    try:
        return strict_equal(answer, reference)
    except ValueError:
        return False


@pytest.mark.parametrize(("answer", "reference"), rows(EQUAL))
def test_equal(answer: str, reference: str) -> None:
    assert strict_equal(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), rows(DIFFERENT))
def test_different(answer: str, reference: str) -> None:
    assert not equal(answer, reference)


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_what_cannot_be_read_is_told_apart_from_what_is_wrong(text: str) -> None:
    with pytest.raises(ValueError):
        strict_equal(text, "x+1")
    assert not strict_equal("x+1", text)
    assert strict_equal(text, text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_answers_get_a_verdict_soon(text: str) -> None:
    started = time.process_time()
    assert not equal(text, "y^2+\\lfloor n/2\\rfloor")
    assert not equal("\\sqrt{2}", text)
    assert equal(text, text)
    assert time.process_time() - started < SECONDS


def test_golds_equal_themselves_and_no_altered_copy_of_them() -> None:
    assert gold_failures(GOLDS, strict_equal) == []
    assert swap_failures(GOLDS, strict_equal) == []


def test_the_checks_on_golds_find_what_is_wrong() -> None:
    assert list(swaps("9\\frac{z}4")) == ["0\\frac{z}4", "9\\frac{a}4", "9\\frac{z}5"]
    assert list(swaps("f(x)=x")) == ["g(x)=x", "f(y)=x", "f(x)=y"]
    assert list(swaps("f(x)=1")) == ["g(x)=1", "f(x)=2"]  # f(y)=1 is the same function

    def blind(answer: str, reference: str) -> bool:
        return answer.startswith("1") and reference.startswith("1")

    assert swap_failures(["12", "22"], blind) == [("13", "12")]
    assert gold_failures(["12", "2}", "{2"], blind) == [("2}", "2}"), ("{2", "{2")]
    assert gold_failures(["2"], blind) == [("2", "2"), ("2", "2")]


def test_values_are_exact_where_they_can_be() -> None:
    at = Point({}, is_complex=False, radians=True)
    for text, exact in (("\\frac{100!}{98!}", 9900), ("\\sqrt{\\frac{9}{4}}", 1.5), ("2^{-2}+1 1/2", 1.75)):
        assert value(read(text), at) == exact
