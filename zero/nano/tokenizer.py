"""The nano tokenizer: a Qwen2 tokenizer (byte-level BPE, NFC, single digits) with few entries, trained on the corpus.

All but its entries is Qwen2's: transformers uses that class for every Qwen2 model, whatever its files say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

END, PAD = "<|endoftext|>", "<|pad|>"
CONTROL = (END, PAD, "<|im_start|>", "<|im_end|>")  # ids 0 to 3; skip_special_tokens drops them
TAGS = ("<think>", "</think>", "<answer>", "</answer>")  # the last ids; text that a grader must see, so never dropped

# Words of common prompt templates, so that a templated nano prompt is short. Only words count here, not their order.
TEMPLATE_WORDS = """\
A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first \
thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning process is \
enclosed within and answer is enclosed within tags, respectively, i.e., reasoning process here answer here .
User: Start with Use to make
Assistant:
system
Please reason step by step, and put your final answer within \\boxed{}.
user
assistant
"""
TEMPLATE_REPEATS = 400  # enough for every template word to become one token


def train_tokenizer(texts: Iterable[str], size: int, context: int) -> Qwen2Tokenizer:
    """A tokenizer with at most `size` entries for a model of `context` tokens.

    decode(encode(x)) is x in Unicode normal form C.
    """
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    pipeline = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(TAGS),
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pipeline.train_from_iterator([*texts, *[TEMPLATE_WORDS] * TEMPLATE_REPEATS], trainer)
    trained = json.loads(pipeline.to_str())["model"]
    settings: dict[str, Any] = {
        "vocab": trained["vocab"],
        "merges": [tuple(pair) for pair in trained["merges"]],
        "unk_token": None,  # bytes leave nothing unknown
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    tokenizer = Qwen2Tokenizer(**settings)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return tokenizer
