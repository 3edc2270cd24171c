"""The nano tokenizer: byte-level BPE with single digits, trained on the corpus and on the words of the templates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"
CONTROL = (END, PAD, "<|im_start|>", "<|im_end|>")  # ids 0 to 3; skip_special_tokens drops them
TAGS = ("<think>", "</think>", "<answer>", "</answer>")  # the last ids; text that a grader must see, so never dropped

# Digits stand alone, a word takes the space before it, "\boxed{" is one piece, anything else is split finely.
PIECES = r"\d|\\boxed\{| ?\p{L}+|\n| ?[^\s\p{L}\d]|\s"

# Words of common prompt templates, so that a templated nano prompt is short. Only words count here, not their order.
TEMPLATE_WORDS = """\
A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first \
thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning process is \
enclosed within and answer is enclosed within tags, respectively, i.e., reasoning process here answer here .
User:
Assistant:
system
Please reason step by step, and put your final answer within \\boxed{}.
user
assistant
"""
TEMPLATE_REPEATS = 400  # enough for every template word to become one token


def train_tokenizer(texts: Iterable[str], size: int, context: int) -> PreTrainedTokenizerFast:
    """A tokenizer with at most `size` entries for a model of `context` tokens. decode(encode(x)) == x for every string of Unicode scalar values."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(TAGS),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *[TEMPLATE_WORDS] * TEMPLATE_REPEATS], trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
