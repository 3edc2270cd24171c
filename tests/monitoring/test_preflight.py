"""Pre-flight: one prompt as the model sees it, and every trap that can be seen before the first sample."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zero.monitoring.preflight import doubts, preflight
from zero.prompt_text import encode
from zero.records import Prompt, Question, Sampling

END, PAD, START, TURN = 0, 1, 2, 3  # ids of <|endoftext|>, <|pad|>, <|im_start|>, <|im_end|>
CHAT = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"


def prompt(text: str, tokenizer: Any, ids: tuple[int, ...] | None = None) -> Prompt:
    question = Question("1+1", ("2",), "q")
    return Prompt(question, text, encode(text, tokenizer) if ids is None else ids, (0,))


def sampling(*ids: int, stop: tuple[str, ...] = ()) -> Sampling:
    return Sampling(16, stop=stop, stop_ids=ids)


def test_the_whole_text_of_a_prompt_without_faults(tokenizer: Any) -> None:
    output = preflight(prompt(CHAT + "<think>", tokenizer), sampling(END, TURN, stop=("\nUser:",)), tokenizer)
    count = len(tokenizer.encode(CHAT)) + 1
    assert output == (
        'prompt   "<|im_start|>user\\n1+1<|im_end|>\\n<|im_start|>assistant\\n<think>"\n'
        f'tokens   {count}: "<|im_start|>" "user" "\\n" ... "assistant" "\\n" "<think>"\n'
        'stops    texts: "\\nUser:"; tokens: <|endoftext|> (0), <|im_end|> (3); EOS is <|endoftext|> (0)'
    )


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 8])
def test_the_tokens_at_both_ends(count: int, tokenizer: Any) -> None:
    text = "123456789"[:count]  # a digit is a token
    line = preflight(prompt(text, tokenizer), sampling(END), tokenizer).splitlines()[1]
    digits = [f'"{digit}"' for digit in text]
    assert line == f"tokens   {count}: " + " ".join(digits if count <= 6 else [*digits[:3], "...", *digits[-3:]])


def test_long_prompts_lose_their_middle_and_nothing_steers_the_terminal(tokenizer: Any) -> None:
    text = "\x1b[2J" + "a" * 400 + "b" * 5000 + "\u202e\u4e2d\r" + "c" * 238
    lines = preflight(prompt(text, tokenizer), sampling(END), tokenizer).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith('prompt   "\\x1b[2Jaaa')
    assert "[... 5045 characters ...]" in lines[0]
    assert lines[0].endswith("\\u4e2d\\r" + "c" * 238 + '"')
    assert all(" " <= character <= "~" for line in lines for character in line)


@pytest.mark.parametrize(
    ("text", "how", "doubt"),
    [
        ("1+1", sampling(END), ""),
        (CHAT, sampling(END, TURN), ""),
        ("Write <answer> </answer>.\nAssistant: <think>", sampling(END, stop=("</answer>",)), ""),
        ("<|im_start|>Write </answer>.<|im_end|>", sampling(END, TURN), ""),  # the prompt shows how a turn ends
        ("1+1", sampling(), "nothing ends a response"),
        ("1+1", sampling(TURN), "EOS, <|endoftext|> (0), does not end a response"),
        ("1+1<|endoftext|>", sampling(END), "the prompt ends with EOS (<|endoftext|> (0))"),
        ("", sampling(END), "the prompt has no tokens"),
        (CHAT, sampling(END), "turns end with <|im_end|>, which does not end a response"),
        ("<|start_header_id|>user", sampling(END), "<|start_header_id|> is no token of this model but"),
        ("<\uff5cUser\uff5c>1+1", sampling(END), "<\\uff5cUser\\uff5c> is no token of this model but 9 pieces"),
        ("<start_of_turn>user", sampling(END), "<start_of_turn> is no token of this model but"),
        ("Answer: ", sampling(END), "the prompt ends with a space"),
        ("Write <answer> </answer>: ?", sampling(END), "the prompt asks for </answer>"),
        ("Write </answer>: ?", sampling(END, stop=("User:",)), "the prompt asks for </answer>"),
        ("<think>", sampling(END, stop=("</think>",)), "a response is stopped at </think>, before its answer"),
        ("<think>\nSo.\n<think>", sampling(END), "<think> is opened twice"),
        ("1+1", sampling(END, stop=("\n\n",)), 'the stop string "\\n\\n" is white space'),
    ],
)
def test_doubts(text: str, how: Sampling, doubt: str, tokenizer: Any) -> None:
    sentences = doubts(prompt(text, tokenizer), how, tokenizer)
    assert len(sentences) == bool(doubt), sentences
    assert all(doubt in sentence for sentence in sentences)


def test_a_tokenizer_without_an_end(tokenizer: Any) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    assert "EOS is not set" in preflight(prompt("1+1", endless), sampling(END), endless)
    (sentence,) = doubts(prompt("1+1 <think>\n", endless), sampling(PAD), endless)
    assert "only padding or BOS ends a response" in sentence


def test_two_bos_and_unknown_tokens(tokenizer: Any) -> None:
    odd = copy.deepcopy(tokenizer)
    odd.bos_token, odd.unk_token = "<|im_start|>", "<|pad|>"
    assert doubts(prompt("a", odd, (START, START, 40)), sampling(END), odd) == [
        "the prompt begins with two BOS (<|im_start|> (2)): take one out of the template"
    ]
    assert doubts(prompt("a", odd, (START, PAD, PAD)), sampling(END), odd) == [
        "the tokenizer does not know 2 of the prompt's tokens"
    ]


def test_a_warning_is_a_line_of_its_own(tokenizer: Any) -> None:
    lines = preflight(prompt("a ", tokenizer), sampling(TURN), tokenizer).splitlines()
    assert [line[:9] for line in lines] == ["prompt   ", "tokens   ", "stops    ", "warning  ", "warning  "]
