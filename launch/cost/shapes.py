"""Architectures of published models, without their weights: for memory hints, plans, and random models of true size.

Numbers are those of each model's config.json at the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any

TRAINING, ENGINE, CACHED = 18, 4, 2  # bytes: see zero/models/load.py
FROZEN = 6  # of a parameter that does not learn: float32, and what the passes round it to
CARDS = (16, 24, 48, 80, 141)  # GB of memory that GPUs are sold with
ROOM = 1.2  # for activations, logits and the cache


@dataclass(frozen=True)
class Tower:
    """What turns an image into features: a vision tower with its connector."""

    parameters: int  # as transformers builds it
    patch: int  # pixels of its side
    merged: int  # patches of one feature
    side: int | None = None  # pixels to which an image, or a tile of it, is scaled; None: its own size
    tiles: int = 0  # along the longer side, beside one of the whole image; 0: an image is not cut
    least: int = 0  # pixels: a smaller image is scaled up

    def patches(self, width: int, height: int) -> int:
        """Patches of an image of this many pixels."""
        if self.side:
            short = ceil(self.tiles * min(width, height) / max(width, height))
            return (self.tiles * short + 1) * (self.side // self.patch) ** 2
        scale = max(1.0, (self.least / (width * height)) ** 0.5)
        block = self.patch * isqrt(self.merged)
        return max(1, round(width * scale / block)) * max(1, round(height * scale / block)) * self.merged

    def tokens(self, width: int, height: int) -> int:
        """Tokens of a prompt that an image of this many pixels takes, without those that a family writes around it."""
        return self.patches(width, height) // self.merged


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama family, and what it sees with. `most` is its max_position_embeddings."""

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
    norms: int = 2  # of a layer, beside those
    tower: Tower | None = None
    more: int = 0  # parameters of the decoder that the Llama family does not have

    @property
    def parameters(self) -> int:
        """All of them; tied embeddings once."""
        return self.decoder + (self.tower.parameters if self.tower else 0)

    @property
    def decoder(self) -> int:
        """Those that each token passes."""
        projected = (self.heads + 2 * self.kv) * self.size
        attention = self.hidden * (projected + self.heads * self.size)
        layer = attention + 3 * self.hidden * self.inner + self.norms * self.hidden
        layer += projected * self.biased + 2 * self.size * self.normed
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + ends + self.hidden + self.more

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
        seeing = n - self.decoder
        training = (TRAINING * self.decoder + FROZEN * seeing) / 1e9
        whole = training + ENGINE * n / 1e9
        fits = next((f"a {card} GB card" for card in CARDS if whole * ROOM <= card), "several cards")
        sees = f"{seeing / 1e9:.2f} B of them see and stay frozen, " if seeing else ""
        return (
            f"# {size} parameters, {sees}{2 * n / 1e9:.2g} GB in bfloat16; training {training:.3g} GB, {whole:.3g} with native "
            f"rollouts: {fits}; cache {self.cached / 1024:.0f} KiB/token"
        )


def qwen_shape(layers: int, hidden: int, heads: int, kv: int, size: int, inner: int, most: int, **more: Any) -> Shape:
    """Qwen2 and 2.5: padded to 151,936 tokens and tied in the small ones."""
    given = {"vocabulary": 151936, "tied": True, "biased": True} | more
    return Shape(layers, hidden, heads, kv, size, inner, most=most, **given)


def qwen_tower(parameters: int, patch: int = 14) -> Tower:
    """Qwen2.5-VL's of 14 pixels a patch, Qwen3-VL's of 16: an image keeps its size."""
    return Tower(parameters, patch, 4, least=3136 if patch == 14 else 65536)


SIGLIP_512 = dict(patch=16, merged=16, side=512, tiles=4)  # of the smaller SmolVLM
SIGLIP_896 = dict(patch=14, merged=16, side=896)  # of Gemma 3, which has no pooling head
GEMMA: dict[str, Any] = dict(normed=True, norms=4, tied=True)
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

QWEN_VL = {"most": 128000}
QWEN3_VL = {"most": 262144, **QWEN3}

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
    "qwen2_5_vl_3b": qwen_shape(36, 2048, 16, 2, 128, 11008, **QWEN_VL, tower=qwen_tower(668_684_288)),
    "qwen2_5_vl_7b": qwen_shape(28, 3584, 28, 4, 128, 18944, **QWEN_VL, **WIDE, tower=qwen_tower(676_550_144)),
    "qwen2_5_vl_32b": qwen_shape(64, 5120, 40, 8, 128, 27648, **QWEN_VL, **WIDE, tower=qwen_tower(688_841_984)),
    "qwen2_5_vl_72b": qwen_shape(80, 8192, 64, 8, 128, 29568, **QWEN_VL, **WIDE, tower=qwen_tower(704_573_696)),
    "qwen3_vl_2b": qwen_shape(28, 2048, 16, 8, 128, 6144, **QWEN3_VL, tower=qwen_tower(406_957_056, 16)),
    "qwen3_vl_4b": qwen_shape(36, 2560, 32, 8, 128, 9728, **QWEN3_VL, tower=qwen_tower(415_347_712, 16)),
    "qwen3_vl_8b": qwen_shape(36, 4096, 32, 8, 128, 12288, **QWEN3_VL, tied=False, tower=qwen_tower(576_388_336, 16)),
    "smolvlm_256m": Shape(30, 576, 9, 3, 64, 1536, 49280, 8192, tied=False, tower=Tower(93_510_912, **SIGLIP_512)),
    "smolvlm_500m": Shape(32, 960, 15, 5, 64, 2560, 49280, 8192, tied=False, tower=Tower(98_229_504, **SIGLIP_512)),
    "smolvlm_2_2b": Shape(
        24, 2048, 32, 32, 64, 8192, 49155, 16384, tied=False, tower=Tower(434_220_912, 14, 9, 384, 4)
    ),
    "llava_1_5_7b": Shape(32, 4096, 32, 32, 128, 11008, 32064, 4096, tied=False, tower=Tower(324_487_168, 14, 1, 336)),
    "gemma3_4b": Shape(34, 2560, 8, 4, 256, 10240, 262208, 131072, **GEMMA, tower=Tower(419_816_304, **SIGLIP_896)),
    "gemma3_12b": Shape(48, 3840, 16, 8, 256, 15360, 262208, 131072, **GEMMA, tower=Tower(421_290_864, **SIGLIP_896)),
    # eight of its layers read the image's features by cross-attention: an image is one token
    "llama3_2_vision_11b": Shape(
        40, 4096, 32, 8, 128, 14336, 128256, 131072, tied=False, more=34_832, tower=Tower(867_749_395, 14, 1600, 560)
    ),
}
