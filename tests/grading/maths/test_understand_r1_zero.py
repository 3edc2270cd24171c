r"""The verdicts of the paper's grader, as its own code gives them (sympy 1.14, math_verify 0.9)."""

from __future__ import annotations

import pytest

from zero.grading.maths.understand_r1_zero import is_formula, paper_fast, paper_slow, plain, repeats, stripped

# answer, reference, fast, slow
ORDINARY = [
    ("5", "5", True, True),
    ("5", "6", False, False),
    (r"\dfrac{1}{2}", r"\frac12", True, True),
    ("1/2", r"\frac{1}{2}", True, True),
    ("0.5", r"\frac{1}{2}", True, True),
    (r"7\frac{3}{4}", r"\frac{31}{4}", True, True),
    ("1,234,567", "1234567", True, True),
    ("1,234", "1235", False, False),
    (r"\$18.50", "18.50", True, True),
    (r"50\%", "50", True, True),
    (r"90^\circ", "90", True, True),
    (r"12\text{ cm}", "12", True, True),
    ("x = 5", "5", True, True),
    ("2x+1", "1+2x", True, True),
    ("2x+1", "2x-1", False, False),
    (r"\sqrt{8}", r"2\sqrt2", True, True),
    (r"\sqrt{8}", r"2\sqrt3", False, False),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\frac{\pi}{2})", True, True),
    ("[1,2)", "(1,2)", False, False),
    ("(1,2)", "(2,1)", False, False),
    (r"\text{Evelyn}", "evelyn", True, True),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", True, True),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&5\end{bmatrix}", False, False),
    ("7", r"\boxed{7}", True, True),
    ("7", r"\boxed 7", False, False),
    ("", "5", False, False),
]
WRONGLY_RIGHT = [
    ("a+b", "c+b", True, True),
    ("t^2", "h^2", True, True),
    (r"\frac{a}{b}", r"\frac{c}{b}", True, True),
    (r"\sqrt{x}+c", r"\sqrt{x}+d", True, True),
    ("x-a", "x-d", True, True),
    ("5 east", "5 west", True, True),
    ("5 cm", "5 miles", True, True),
    ("1,234", "(1,234)", True, True),
    ("1 1", "11", True, True),
    ("9007199254740993", "9007199254740992", True, True),
    ("\u0665", "5", True, True),
    ("12_{3}", "12_{4}", False, True),
    ("101_2", "101", False, True),
]
WRONGLY_WRONG = [
    (r"\frac{2}{4}", r"\frac{1}{2}", False, True),
    (r"\{1,2\}", r"\{2,1\}", False, True),
    ("1,2", "2,1", False, True),
    ("2^{10}", "1024", False, True),
    ("5 million", "5000000", False, False),
    ("f(x)=x+1", "x+1", False, True),
    (r"3\pm2\sqrt{2}", r"3+2\sqrt{2},3-2\sqrt{2}", False, True),
    ("44000000", r"4.4\times10^7", False, True),
    ("x+y+z", "z+y+x", False, True),
    ("4.4e7", r"4.4 \times 10^7", False, False),
    (r"1\,000", "1000", False, False),
    ("x<2", r"(-\infty,2)", False, False),
    (r"\ln 2", r"\log 2", False, False),
    (r"\frac{\pi}{2}", r"90^\circ", False, False),
    (r"e^{i\pi/3}", r"\frac{1}{2}+\frac{\sqrt{3}}{2}i", False, False),
    (r"\text{(B)}\ 5", "5", False, False),
    ("The answer is 5", "5", False, True),
    ("+".join("1" * 70), "70", False, False),  # over 128 characters that repeat themselves
    ("+".join("1" * 60), "60", False, True),
]


@pytest.mark.parametrize(("answer", "reference", "fast", "slow"), ORDINARY + WRONGLY_RIGHT + WRONGLY_WRONG)
def test_the_verdict_is_the_papers(answer: str, reference: str, fast: bool, slow: bool) -> None:
    assert (paper_fast(answer, reference), paper_slow(answer, reference)) == (fast, slow)


def test_nothing_equals_an_empty_reference() -> None:
    for reference in ("", None, r"\boxed{}"):
        for answer in ("", "m", "5"):
            assert not paper_fast(answer, reference)  # type: ignore[arg-type]
            assert not paper_slow(answer, reference)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (r"\text{ 5 miles }", "5"),
        ("day", "day"),  # what is nothing but a unit keeps it
        (r"k = \sqrt3\frac1{72}", r"\sqrt{3}\frac{1}{72}"),
        (r"2 \sqrt", r"2 \sqrt"),  # unexpected: stays as it is
        (r"\text{ a } 5 \text{ b } 6", r"\text{ a } 5 \text{ b } 6"),
        (r".5x", "0.5x"),
        ("-3/4", r"\frac{-3}{4}"),
        ("03/4", "03/4"),
    ],
)
def test_first_normal_form(text: str, form: str) -> None:
    assert stripped(text) == form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (r"3\ \text{or}\ -  \sqrt[3]{X}", "3or-sqrt(x)"),
        (r"1 \dfrac{2}{3}", "1+2/3"),
        ("2 trillion", "2*10^12"),
        ("5 centimeters^2 kilometers", "5kilo"),  # anywhere in a word
        ("1,234.00000001", "1234"),
        (r"2\sqrt", r"2\sqrt"),  # unreadable LaTeX stays
        (r"\begin{pmatrix}\end{pmatrix}", r"\beginpmatrix\endpmatrix"),
        (r"\frac{1}{\sqrt[3]{x}}+\pi\cdot\mathbf{R}", "1/sqrt(x)+pi*\U0001d411"),  # the index is lost
        (r"\frac{1}", "%s/%s1"),
        (r"\unknown{a}\mbox{b} \textbf{c}\text {d}", "acd"),
    ],
)
def test_second_normal_form(text: str, form: str) -> None:
    assert plain(text) == form


@pytest.mark.parametrize(
    ("code", "harmless"),
    [
        ("(x**2)-(2*x+sqrt(3)/4!)", True),
        ("([1,2])-(0.2[3])", True),
        ("(x)-(1.5e3)", True),
        ("(x)-(x.is_real)", False),
        ("(x)-(1..real)", False),
        ("(x)-('x')", False),
        ('(x)-(f"x")', False),
        ("(x)-(__x__)", False),
        ("(x)-(x[1:2])", False),
        ("(x)-(lambda:x)", False),
        ("(x)-(x:=1)", False),
        ("(x)-(x;x)", False),
        ("(x)-(x", False),
        ("(x)-(x#)", False),
        ("(x)-(\0)", False),
    ],
)
def test_only_formulas_reach_sympy(code: str, harmless: bool) -> None:
    assert is_formula(code) is harmless


def test_an_answer_is_never_run(tmp_path) -> None:  # noqa: ANN001
    marker = tmp_path / "marker"
    program = f"open({str(marker)!r},'w')"
    octal = "".join(f"\\{ord(char):03o}" for char in program)
    # two letters, and a string that ln reads again; the root without an argument keeps the backslashes
    attack = f'ln("{octal}")#\\sqrt\n'
    for answer in (attack, program, f"__import__('os').system('touch {marker}')", f"ln('{program}')"):
        for reference in ("1/2", answer[::-1]):
            assert not paper_fast(answer, reference)
            assert not paper_slow(answer, reference)
            assert not paper_slow(reference, answer)
    assert not marker.exists()


HOSTILE = [
    seed * 500 for seed in "( ) { } [ \\ ^ _ . , - ! $ % \\frac \\sqrt \\text{ \\( \\boxed{ 1, \0 \ud800".split()
]
HOSTILE += ["nan", "inf", "1e999", "1e-999", "\u00b2", "1/0", "0/0", "((x)", "\\", "\n\n", "9" * 5000]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_every_text_gets_a_verdict(text: str) -> None:
    for mode in (paper_fast, paper_slow):
        assert mode(text, "5") is False
        assert mode("5", text) is False


def test_repetition_counts_substrings() -> None:
    """Against the definition: distinct substrings, counted one by one."""
    for text in ("abab", "a" * 20, "abcdefgh", "mississippi", "abcabcabcd"):
        n = len(text)
        distinct = len({text[i:j] for i in range(n) for j in range(i + 1, n + 1)})
        assert repeats(text) is (1 - 2 * distinct / (n * (n + 1)) > 0.2)
    assert repeats("ab" * 100) and not repeats("".join(map(chr, range(100, 300))))
