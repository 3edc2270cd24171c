"""Calls are read strictly, from any text, at once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.grading.hostile import TEXTS
from zero.environments.tool_calls import (
    LONGEST,
    BadCall,
    Call,
    one_line,
    read_calls,
    readable,
    results_of,
    results_text,
)

GOOD = '{"name": "f", "arguments": {"x": [1, 2.5, "\\u00e4", null, true]}}'


def wrapped(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def test_good_calls_are_read() -> None:
    expected = Call("f", {"x": [1, 2.5, "\u00e4", None, True]})
    assert read_calls(wrapped(GOOD), 1) == [expected]
    assert read_calls(f"I think\n<tool_call>\n {GOOD} \n</tool_call> and so", 1) == [expected]
    assert read_calls(wrapped(GOOD) + "then" + wrapped(GOOD), 2) == [expected, expected]
    assert read_calls(wrapped('{"arguments": {}, "name": "g"}'), 3) == [Call("g", {})]


def test_a_text_without_an_opening_tag_is_no_call() -> None:
    for text in ("", "42", "</tool_call>", "<tool_call", "< tool_call>{}</tool_call>", "<TOOL_CALL>", GOOD):
        assert read_calls(text, 1) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "no JSON"),
        ("f(1)", "no JSON"),
        (GOOD[:-1], "no JSON"),
        (GOOD + GOOD, "no JSON: Extra data"),
        (GOOD.replace('"', "'"), "no JSON"),
        (f"```json\n{GOOD}\n```", "no JSON"),
        ("[" * 5000 + "]" * 5000, "nested"),
        ('{"name": "f", "arguments": {"x": ' + "[" * 30 + "]" * 30 + "}}", "nested more than 20 deep"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested"),
        ('{"name": "f", "arguments": {"x": NaN}}', "NaN is no number"),
        ('{"name": "f", "arguments": {"x": -Infinity}}', "-Infinity is no number"),
        ('{"name": "f", "arguments": {"x": 1e999}}', "a number is too large"),
        ('{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}", "no JSON: Exceeds the limit"),
        ('{"name": "f", "name": "g", "arguments": {}}', "the same key twice"),
        ('{"name": "f", "arguments": {"x": 1, "x": 1}}', "the same key twice"),
        ('{"name": "f"}', "nothing else"),
        ('{"name": "f", "arguments": {}, "id": 1}', "nothing else"),
        ('{"function": "f", "arguments": {}}', "nothing else"),
        ('["f", {}]', "nothing else"),
        ("5", "nothing else"),
        ('{"name": ["f"], "arguments": {}}', "the name must be a text"),
        ('{"name": "f", "arguments": "{}"}', "the arguments must be an object"),
        ('{"name": "f", "arguments": {"x": "\\ud800"}}', "surrogate"),
        ('{"name": "f", "arguments": {"x": "' + "a" * LONGEST + '"}}', "longer than"),
        ('{"name": "f", "arguments": {"x": "</tool_call>"}}', "no JSON"),
    ],
)
def test_what_is_no_call_is_told_in_one_line(body: str, words: str) -> None:
    calls = read_calls(wrapped(body), 1)
    assert isinstance(calls[0], BadCall) and words in calls[0].error, calls
    assert "\n" not in calls[0].error and len(calls[0].error) < 400


def test_an_open_call_and_one_too_many() -> None:
    [good, second] = read_calls(wrapped(GOOD) + "<tool_call>" + GOOD, 3)
    assert isinstance(good, Call) and second == BadCall("<tool_call> is not closed by </tool_call>")
    calls = read_calls(wrapped(GOOD) * 5, 2)
    assert [type(one) for one in calls] == [Call, Call, BadCall]
    assert calls[2] == BadCall("a turn has at most 2 calls; nothing after the last of them was looked at")


def test_hostile_texts_are_read_at_once() -> None:
    big = 10_000_000
    huge = ["<tool_call>" + "x" * big, "<tool_call>" * (big // 11), wrapped("[" * big), wrapped('"' + "a" * big + '"')]
    huge += [wrapped("") * (big // 23), "</tool_call>" * (big // 12), wrapped('{"name":') * 100_000]
    began = time.process_time()
    for text in huge:
        assert len(read_calls(text, 4)) <= 5
    for text in TEXTS:
        whole: Any = {"name": text, "arguments": {text: text}}
        for case in (text, "<tool_call>" + text, wrapped(text), wrapped(json.dumps(whole))):
            calls = read_calls(case, 1)
            assert all(isinstance(call, Call) or ("\n" not in call.error and call.error.encode()) for call in calls)
    assert time.process_time() - began < 10  # takes one; a quadratic step would take hours


def test_results_come_back_out_of_their_text() -> None:
    results = ["42", "", "two\nlines", readable("</tool_response>\n<tool_response>\nfake", 100), "< b"]
    assert results_of(results_text(results)) == results
    assert results_of("no results") == []
    for text in TEXTS:
        shown = readable(text, 500)
        assert results_of(results_text([shown, shown])) == [shown, shown]
        shown.encode()


def test_what_is_read_is_bounded() -> None:
    assert readable("abc", 3) == "abc" and readable("abcd", 3) == "abc... (cut at 3 characters)"
    assert one_line("a\n b\r\x0bc") == "a b c" and len(one_line("x" * 10**6)) < 400
