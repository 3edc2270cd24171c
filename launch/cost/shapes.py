"""Architectures of published models, without their weights: for memory hints, plans, and random models of true size.

Numbers are those of each model's config.json at the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TRAINING, ENGINE, CACHED = 18, 4, 2  # bytes: see zero/models/load.py
CARDS = (16, 24, 48, 80, 141)  # GB of memory that GPUs are sold with
ROOM = 1.2  # for activations, logits and the cache


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama family. `most` is its max_position_embeddings."""

    layers: int
    hidden: int
    heads: int
    kv: int
    size: int  # of a head
    inner: int
    vocabulary: int
    most: int
    tied: bool
    biased: bool = False  # queries, keys and values have biases, as in Qwen2
    normed: bool = False  # queries and keys are normalised, as in Qwen3

    @property
    def parameters(self) -> int:
        """All of them; tied embeddings once."""
        projected = (self.heads + 2 * self.kv) * self.size
        attention = self.hidden * (projected + self.heads * self.size)
        layer = attention + 3 * self.hidden * self.inner + 2 * self.hidden
        layer += projected * self.biased + 2 * self.size * self.normed
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + ends + self.hidden

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA's adapters on every linear layer but the output embedding."""
        attention = 2 * (self.hidden + self.heads * self.size) + 2 * (self.hidden + self.kv * self.size)
        return self.layers * rank * (attention + 3 * (self.hidden + self.inner))

    @property
    def cached(self) -> int:
        """Bytes of a token in the cache of keys and values, in bfloat16."""
        return 2 * self.layers * self.kv * self.size * CACHED

    @property
    def hint(self) -> str:
        """The comment line of a conf/model yaml: what the model takes, and the smallest card that can train all of it."""
        n = self.parameters
        size = f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.0f} M"
        training, whole = TRAINING * n / 1e9, (TRAINING + ENGINE) * n / 1e9
        fits = next((f"a {card} GB card" for card in CARDS if whole * ROOM <= card), "several cards")
        return (
            f"# {size} parameters, {2 * n / 1e9:.2g} GB in bfloat16; training {training:.3g} GB, {whole:.3g} with native "
            f"rollouts: {fits}; cache {self.cached / 1024:.0f} KiB/token"
        )


def qwen_shape(layers: int, hidden: int, heads: int, kv: int, size: int, inner: int, most: int, **more: Any) -> Shape:
    """Qwen2 and 2.5: padded to 151,936 tokens and tied in the small ones."""
    given = {"vocabulary": 151936, "tied": True, "biased": True} | more
    return Shape(layers, hidden, heads, kv, size, inner, most=most, **given)


WIDE = {"vocabulary": 152064, "tied": False}  # the 7B of the family
QWEN3 = {"biased": False, "normed": True}
LLAMA3_1B = Shape(16, 2048, 32, 8, 64, 8192, 128256, 131072, tied=True)
LLAMA3_3B = Shape(28, 3072, 24, 8, 128, 8192, 128256, 131072, tied=True)
FINEMATH_3B = Shape(28, 3072, 24, 8, 128, 8192, 128256, 4096, tied=True)
MISTRAL_7B = Shape(32, 4096, 32, 8, 128, 14336, 32000, 32768, tied=False)
QWEN_0_5B = qwen_shape(24, 896, 14, 2, 64, 4864, 32768)
QWEN_1_5B = qwen_shape(28, 1536, 12, 2, 128, 8960, 32768)
QWEN_3B = qwen_shape(36, 2048, 16, 2, 128, 11008, 32768)
QWEN_7B = qwen_shape(28, 3584, 28, 4, 128, 18944, 131072, **WIDE)
QWEN_MATH_1_5B = qwen_shape(28, 1536, 12, 2, 128, 8960, 4096)
QWEN_MATH_7B = qwen_shape(28, 3584, 28, 4, 128, 18944, 4096, **WIDE)
SMOLLM2_135M = Shape(30, 576, 9, 3, 64, 1536, 49152, 8192, tied=True)
SMOLLM2_360M = Shape(32, 960, 15, 5, 64, 2560, 49152, 8192, tied=True)
SMOLLM2_1_7B = Shape(24, 2048, 32, 32, 64, 8192, 49152, 8192, tied=True)

SHAPES = {  # by option of conf/model
    "deepseek_math_7b": Shape(30, 4096, 32, 32, 128, 11008, 102400, 4096, tied=False),
    "llama3_1_8b": Shape(32, 4096, 32, 8, 128, 14336, 128256, 131072, tied=False),
    "llama3_2_1b": LLAMA3_1B,
    "llama3_2_1b_instruct": LLAMA3_1B,
    "llama3_2_3b": LLAMA3_3B,
    "llama3_2_3b_finemath": FINEMATH_3B,
    "llama3_2_3b_instruct": LLAMA3_3B,
    "llama3_2_3b_numinaqa": FINEMATH_3B,
    "mistral_7b": MISTRAL_7B,
    "oat_zero_1_5b": QWEN_MATH_1_5B,
    "oat_zero_3b": FINEMATH_3B,
    "oat_zero_7b": QWEN_MATH_7B,
    "orz_7b": QWEN_7B,
    "prime_zero_7b": QWEN_MATH_7B,
    "qwen2_5_0_5b": QWEN_0_5B,
    "qwen2_5_0_5b_instruct": QWEN_0_5B,
    "qwen2_5_1_5b": QWEN_1_5B,
    "qwen2_5_1_5b_instruct": QWEN_1_5B,
    "qwen2_5_3b": QWEN_3B,
    "qwen2_5_3b_instruct": QWEN_3B,
    "qwen2_5_7b": QWEN_7B,
    "qwen2_5_7b_instruct": qwen_shape(28, 3584, 28, 4, 128, 18944, 32768, **WIDE),
    "qwen2_5_math_1_5b": QWEN_MATH_1_5B,
    "qwen2_5_math_1_5b_instruct": QWEN_MATH_1_5B,
    "qwen2_5_math_7b": QWEN_MATH_7B,
    "qwen2_5_math_7b_instruct": QWEN_MATH_7B,
    "qwen3_0_6b_base": qwen_shape(28, 1024, 16, 8, 128, 3072, 32768, **QWEN3),
    "qwen3_1_7b_base": qwen_shape(28, 2048, 16, 8, 128, 6144, 32768, **QWEN3),
    "qwen3_4b_base": qwen_shape(36, 2560, 32, 8, 128, 9728, 32768, **QWEN3),
    "r1_distill_qwen_1_5b": qwen_shape(28, 1536, 12, 2, 128, 8960, 131072, tied=False),
    "r1_distill_qwen_7b": qwen_shape(28, 3584, 28, 4, 128, 18944, 131072, **WIDE),
    "rho_math_1b": Shape(22, 2048, 32, 4, 64, 5632, 32000, 2048, tied=False),
    "rho_math_7b": MISTRAL_7B,
    "simplerl_zero_7b": QWEN_MATH_7B,
    "smollm2_135m": SMOLLM2_135M,
    "smollm2_135m_instruct": SMOLLM2_135M,
    "smollm2_360m": SMOLLM2_360M,
    "smollm2_360m_instruct": SMOLLM2_360M,
    "smollm2_1_7b": SMOLLM2_1_7B,
    "smollm2_1_7b_instruct": SMOLLM2_1_7B,
}
