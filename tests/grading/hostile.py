"""python -m tests.grading.hostile: a verdict on every text made to hang, exhaust or crash a grader."""

from __future__ import annotations

from zero.grading import countdown_correct
from zero.grading.maths.exact import exact_equal
from zero.template import answer_tag, extract_any, last_boxed, last_expression

LONG = 200_000  # characters: a step that is quadratic on one of the texts takes minutes
SEEDS = r"""( ) { } \ \\ 0 9 9. 1, 1,000, ,111 - --1 1- +1 *2 1/ / ** 9** = $ $$ \$ {,} 10^{ e9 (1 1) \boxed \boxed{
\boxed{} \boxed1 \text{ \text{} \frac \frac{1}{ \frac12 \left \left( \times \times10^ 1\times #### ####1 <answer>
</answer> <answer></answer> </think> </think><answer>""".split()
SEEDS += [
    " ",
    "\n",
    "- ",
    "1 ",
    "a ",
    "\\$ ",
    "\\boxed ",
    "\\boxed 1",
    "\\, ",
    "1 \\left ",
    "</think> ",
    "#### ",
    "#### 1",
]
SEEDS += ["</think>\n<answer>", "\0", "\u0665", "\u00b2", "\ud800"]
SEEDS += [
    "answer is ",
    "answer to ",
    "answer:",
    "$1",
    "\\frac",
    "\\frac{1}{2}",
    "\\sqrt{2}",
    "1e",
    "x10^",
    "1{,}000",
    "10^{3}",
    "m^2 ",
]
SEEDS += [
    "\\textcolor{red}{",
    "{\\bf ",
    "1\\over ",
    "\\begin{cases}",
    "\\begin{aligned}a&=b\\\\",
    "\\underline{",
    "] 1,2 [",
    "A ",
    "1 000 ",
]
SEEDS += [
    "\u00bd",
    "\u2075",
    "\u221a",
    "\u0305",
    "*",
    "**",
    "kg m ",
    "\\text{m} ",
    " of the cake",
    "=",
    "5 x ",
    "\\pm",
    "0.33\\ldots",
    "5 (five) ",
    "twenty-",
    "\\underbrace{5}_{",
    "\\stackrel{?}{=}",
    "1.000",
    "5 cm = ",
    "5\\% = ",
    "\\text{a, ",
    "2 h 3 min ",
    "; (x) ",
]
TEXTS = [seed * (size // len(seed)) for seed in SEEDS for size in (150, 199, 499, 1999, LONG)]
TEXTS += [before + seed * (150 // len(seed)) + after for seed in SEEDS for before, after in (("1", "x"), ("x", "1"))]
TEXTS += ["9**9**9", "9**9**9**9+x", "1e999999999", "1e-999999999", "10^{999999999}", "1e" + "9" * 190]
TEXTS += ["4 \\times 10^{" + "9" * 100 + "}", "9" * 4301, "1/" + "9" * 4301]  # int() refuses more than 4,300 digits
TEXTS += ["\\boxed{" * 50_000 + "1" + "}" * 50_000, "(" * 10_000 + "1" + ")" * 10_000]


def main() -> None:
    for text in TEXTS:
        for extract in (last_boxed, answer_tag, extract_any, last_expression):
            answer = extract(text)
            assert answer is None or answer in text
            for candidate in (text, answer or ""):
                assert exact_equal(candidate, "5") is exact_equal("5", candidate)
                assert not countdown_correct(candidate, [9, 9, 9], 1)
    print(len(TEXTS), "verdicts")


if __name__ == "__main__":
    main()
