"""Decoders of the native engine: for the Llama and Qwen families compiled (zero/cpu/decoder.py) or fused in torch, else
transformers' own forward pass.

All keep a key-value cache between calls:

    prefill(ids [P, W], mask [P, W], n, budget, past, shown) -> logits [P * n, V]    left-padded prompts, each repeated n times
    step(ids [N]) -> logits [N, V]                                                  one more token for every row
    keep(rows [M])                                                                  the other rows get no more tokens
    forget()                                                                        free the cache

`shown` are the images of the prompts, for a decoder of a model that sees; for one of text that such a decoder uses, rows to put
below the embedding's, which ids beyond it name. With `past` the rows are turns of episodes: those of the next prefill may go on
from them, whose `past` names what it takes from them (with n = 1). V is the tokenizer's vocabulary, so padding rows of an
embedding matrix can never be sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zero.cpu.architectures import has_plain_layers
from zero.cpu.decoder import CompiledDecoder, Past, can_compile
from zero.errors import InputError
from zero.rollout.image_decoder import ImageDecoder
from zero.vision import Images, Vision


class Decoder(Protocol):
    """See the module's docstring. `goes_on`: whether it takes anything from the rows before."""

    goes_on: bool

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...
    def prefill(
        self, ids_PW: Tensor, mask_PW: Tensor, n: int, budget: int, past: Past | None = None, shown: Any = None
    ) -> Tensor: ...
    def step(self, ids_N: Tensor) -> Tensor: ...
    def keep(self, rows: Tensor) -> None: ...
    def forget(self) -> None: ...


def make_decoder(
    config: Any, vocabulary: int, dtype: torch.dtype, device: torch.device, vision: Vision | None = None
) -> Decoder:
    """CompiledDecoder or FusedDecoder for a model that they support, within an ImageDecoder if it sees, else
    TransformersDecoder. `config` is a PretrainedConfig."""
    if not has_plain_layers(config):
        return TransformersDecoder(config, vocabulary, dtype, device, vision)
    text: Any = config.get_text_config()
    decoder: Decoder
    if can_compile(text, dtype, device):
        decoder = CompiledDecoder(text, vocabulary)
    else:
        decoder = FusedDecoder(text, vocabulary, dtype, device)
    return ImageDecoder(config, decoder, vision, dtype, device) if vision else decoder


class FusedDecoder:
    """Preallocated cache, query/key/value and gate/up projections as one product each, no module overhead.

    Norm gains and attention's 1/sqrt(D) are folded into the weights that follow them. Rotary pairs are stored next to each
    other (rows of the query and key projections are permuted in the same way, which leaves their products unchanged), so
    the rotation is one complex multiplication. Keys and values are stored once per key-value head, and the query heads
    that share them form one matrix product.
    """

    goes_on = True

    def __init__(self, config: Any, vocabulary: int, dtype: torch.dtype, device: torch.device) -> None:
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.kv: int = config.num_key_value_heads
        self.dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.vocabulary, self.dtype, self.device = vocabulary, dtype, device
        rotary = LlamaRotaryEmbedding(config)  # both families use it, and it implements every rope type
        self.frequency = rotary.inv_freq.to(device)
        self.rotary_scale: float = rotary.attention_scaling
        self.weights: dict[str, Tensor] = {}
        self.forget()

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        w = {name: tensor.detach().to(self.device, self.dtype) for name, tensor in weights}
        pairs = torch.arange(self.dim).view(2, -1).T.flatten()  # 0, D/2, 1, D/2 + 1, ...
        fused: dict[str, Tensor] = {"embed": w["model.embed_tokens.weight"]}
        root = fused["embed"].shape[1] ** 0.5
        head = w.get("lm_head.weight", fused["embed"])[: self.vocabulary]
        fused["head"] = _transposed(head * w["model.norm.weight"] * root)
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            fused[f"{i}.out"] = _transposed(w[layer + "self_attn.o_proj.weight"])
            gate_up = torch.cat([w[layer + "mlp.gate_proj.weight"], w[layer + "mlp.up_proj.weight"]])
            fused[f"{i}.gate_up"] = _transposed(gate_up * w[layer + "post_attention_layernorm.weight"] * root)
            fused[f"{i}.down"] = _transposed(w[layer + "mlp.down_proj.weight"])
            for kind in ("weight", "bias"):
                q, k, v = (w.get(f"{layer}self_attn.{p}_proj.{kind}") for p in "qkv")
                if q is None or k is None or v is None:
                    continue
                q, k = (x.view(-1, self.dim, *x.shape[1:])[:, pairs].reshape(x.shape) for x in (q, k))
                fused[f"{i}.qkv.{kind}"] = torch.cat([q * self.dim**-0.5, k, v])
            fused[f"{i}.qkv.weight"] = _transposed(
                fused[f"{i}.qkv.weight"] * w[layer + "input_layernorm.weight"] * root
            )
        self.weights = fused

    def prefill(
        self,
        ids_PW: Tensor,
        mask_PW: Tensor,
        n: int,
        budget: int,
        past: Past | None = None,
        shown: Tensor | None = None,
    ) -> Tensor:
        prompts, width = ids_PW.shape
        rows = prompts * n
        length_P = mask_PW.sum(dim=1)
        taken_P = torch.zeros_like(length_P) if past is None else past.length_P
        if not taken_P.any():
            self.forget()  # before there is a second one
        shape = (self.layers, 2, rows * self.kv, width + budget, self.dim)
        cache = torch.empty(shape, dtype=self.dtype, device=self.device)
        # Columns before `start` come from the rows before; the others, which not all of them have, are computed
        start = int((width - length_P + taken_P).min()) if taken_P.any() else 0
        if past is not None and start:
            self._copy(past, cache[..., :start, :], width - length_P)
        self.cache, self.used = cache, width
        self.position_N = length_P.repeat_interleave(n)  # of the next token
        self.ended: list[tuple[Tensor, Tensor]] = []
        self.remembers, self.row_N = past is not None, torch.arange(rows, device=self.device)
        self.first_N = (width - length_P).repeat_interleave(n)
        padding = torch.zeros(rows, 1, width + budget, dtype=self.dtype, device=self.device)
        padding[:, 0, :width].masked_fill_(mask_PW.repeat_interleave(n, dim=0) == 0, float("-inf"))
        self.padding = padding.repeat_interleave(self.kv, dim=0) if not mask_PW.all() else None
        visible = torch.ones(width, width, dtype=torch.bool, device=self.device).tril() & mask_PW[:, None, :].bool()
        visible |= torch.eye(width, dtype=torch.bool, device=self.device)  # padding sees itself: no row of all -inf
        position_PW = (mask_PW.cumsum(dim=1) - 1).clamp(min=0)
        rotation = self._rotation(position_PW[:, start:].flatten())  # [P (W - start), 1, D/2]
        embed = self.weights["embed"]
        x = F.embedding(ids_PW[:, start:].flatten(), embed if shown is None else torch.cat([embed, shown]))
        for i in range(self.layers):
            q, k, v = (y.unflatten(0, (prompts, width - start)).transpose(1, 2) for y in self._qkv(i, x, rotation))
            for slot, value in enumerate((k, v)):
                self.cache[i, slot, :, start:width] = value.repeat_interleave(n, dim=0).flatten(0, 1)
            if start:
                k, v = self.cache[i, :, :, :width].unflatten(1, (prompts, self.kv))
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=visible[:, None, start:], enable_gqa=True, scale=1.0
            )
            x = self._attention_output_and_mlp(i, x, attended.transpose(1, 2).reshape(prompts * (width - start), -1))
        last = width - start
        return (self._rms_norm(x[last - 1 :: last]) @ self.weights["head"]).repeat_interleave(n, dim=0)

    def _copy(self, past: Past, columns: Tensor, first_P: Tensor) -> None:
        """Fill `columns` [layers, 2, P * kv, C, D] from the rows before. `first_P`: where the prompts begin in them."""
        columns.zero_()  # what is padding must at least be numbers
        for rows, cache in [*self.ended, (self.row_N, self.cache)]:
            p, i = ((past.row_P[:, None] == rows) & (past.length_P > 0)[:, None]).nonzero().T
            column_PC = (
                torch.arange(columns.shape[3], device=self.device) - (first_P[p] - self.first_N[rows[i]])[:, None]
            )
            source = cache.unflatten(2, (-1, self.kv))[:, :, i]  # [layers, 2, P, kv, columns, D]
            index = column_PC.clamp(min=0)[None, None, :, None, :, None].expand(*source.shape[:4], -1, self.dim)
            columns.unflatten(2, (-1, self.kv))[:, :, p] = source.gather(4, index)

    def step(self, ids_N: Tensor) -> Tensor:
        rows, end = len(ids_N), self.used + 1
        rotation = self._rotation(self.position_N)  # [N, 1, D/2]
        self.position_N = self.position_N + 1
        x = F.embedding(ids_N, self.weights["embed"])
        for i in range(self.layers):
            q, k, v = self._qkv(i, x, rotation)
            keys, values = self.cache[i, 0, :, :end], self.cache[i, 1, :, :end]
            keys[:, -1] = k.reshape(-1, self.dim)
            values[:, -1] = v.reshape(-1, self.dim)
            q = q.reshape(rows * self.kv, self.heads // self.kv, self.dim)
            scores = torch.bmm(q, keys.mT)
            if self.padding is not None:
                scores += self.padding[:, :, :end]
            x = self._attention_output_and_mlp(i, x, torch.bmm(scores.softmax(dim=-1), values).view(rows, -1))
        self.used = end
        return self._rms_norm(x) @ self.weights["head"]

    def keep(self, rows: Tensor) -> None:
        if self.remembers:
            others = torch.ones(len(self.row_N), dtype=torch.bool, device=rows.device)
            others[rows] = False
            ended = others.nonzero()[:, 0]
            self.ended.append((self.row_N[ended], self.cache[:, :, self._heads(ended), : self.used]))
        heads = self._heads(rows)
        cache = self.cache.new_empty(self.layers, 2, len(heads), *self.cache.shape[3:])
        cache[..., : self.used, :] = self.cache[:, :, heads, : self.used]
        self.cache, self.position_N, self.row_N = cache, self.position_N[rows], self.row_N[rows]
        if self.padding is not None:
            self.padding = self.padding[heads]

    def forget(self) -> None:
        self.cache, self.ended = torch.empty(0), []

    def _heads(self, rows: Tensor) -> Tensor:
        """The cache's rows of key-value heads."""
        return (rows[:, None] * self.kv + torch.arange(self.kv, device=rows.device)).flatten()

    def _rotation(self, position: Tensor) -> Tensor:
        """exp(i * angle) for each position and frequency, with an axis for the heads: [..., 1, D/2]."""
        angle = position[..., None, None].float() * self.frequency
        return torch.polar(torch.full_like(angle, self.rotary_scale), angle)

    def _qkv(self, i: int, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [M, d] -> q [M, heads, D], k and v [M, kv, D], rotated."""
        weight, bias = self.weights[f"{i}.qkv.weight"], self.weights.get(f"{i}.qkv.bias")
        x = self._rms_norm(x)
        qkv = (x @ weight if bias is None else torch.addmm(bias, x, weight)).view(len(x), -1, self.dim)
        qk, v = qkv.split((self.heads + self.kv, self.kv), dim=1)
        rotated = torch.view_as_complex(qk.float().view(len(x), -1, self.dim // 2, 2)) * rotation
        q, k = torch.view_as_real(rotated).flatten(2).to(self.dtype).split((self.heads, self.kv), dim=1)
        return q, k, v

    def _attention_output_and_mlp(self, i: int, x: Tensor, attended: Tensor) -> Tensor:
        """Attention's output projection and the MLP, each with its residual."""
        w = self.weights
        x = torch.addmm(x, attended, w[f"{i}.out"])
        gate, up = (self._rms_norm(x) @ w[f"{i}.gate_up"]).chunk(2, dim=1)
        return torch.addmm(x, F.silu(gate).mul_(up), w[f"{i}.down"])

    def _rms_norm(self, x: Tensor) -> Tensor:
        """RMS norm without its gain and factor sqrt(d), which are in the weights: x / sqrt(|x|^2 + d eps).

        On a CPU vector_norm is one pass, where torch's rms_norm takes six.
        """
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        return x * norm.square_().add_(x.shape[1] * self.eps).rsqrt_().to(x.dtype)


def _transposed(weight: Tensor) -> Tensor:
    """[out, in] -> [in, out] in memory: the fastest layout for products of a few rows (up to twice as fast on a CPU)."""
    return weight.T.contiguous()


class TransformersDecoder:
    """Any causal language model of transformers, with images or without, through its own forward pass and cache, whose layers may
    be of any kind: every prompt is read whole."""

    goes_on = False

    def __init__(
        self, config: Any, vocabulary: int, dtype: torch.dtype, device: torch.device, vision: Vision | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        kind = AutoModelForCausalLM if vision is None else AutoModelForImageTextToText
        self.model = kind.from_config(config, dtype=dtype).to(device).eval()
        if getattr(self.model, "_is_stateful", False):  # Mamba, RecurrentGemma, ...: rows cannot be selected or padded
            remedy = (
                f"{config.model_type} keeps a recurrent state instead of a key-value cache, which the native engine does not "
                "sample from; take a model with attention alone, or rollout=vllm"
            )
            raise InputError("model.path", getattr(config, "name_or_path", "") or config.model_type, remedy)
        self.vocabulary, self.vision = vocabulary, vision

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                parameters[name].copy_(tensor)

    def prefill(
        self,
        ids_PW: Tensor,
        mask_PW: Tensor,
        n: int,
        budget: int,
        past: Past | None = None,
        shown: Sequence[Images] | None = None,
    ) -> Tensor:
        self.forget()
        if self.vision is not None:
            return self._prefill_with_images(ids_PW, mask_PW, n, shown or [()] * len(ids_PW), self.vision)
        self.mask = mask_PW.repeat_interleave(n, dim=0)
        self.position_N = self.mask.sum(dim=1)
        return self._forward(ids_PW.repeat_interleave(n, dim=0), (self.mask.cumsum(dim=1) - 1).clamp(min=0))

    def _prefill_with_images(
        self, ids_PW: Tensor, mask_PW: Tensor, n: int, images_P: Sequence[Images], vision: Vision
    ) -> Tensor:
        """Each prompt is read once; its samples have copies of its cache."""
        inputs = vision.inputs(images_P, ids_PW)
        positions, next_P = vision.positions(self.model, ids_PW, mask_PW, inputs)
        self.mask, self.position_N = mask_PW, next_P
        logits_PV = self._forward(ids_PW, positions, inputs)
        if n > 1:
            self.cache.batch_repeat_interleave(n)
        self.mask = mask_PW.repeat_interleave(n, dim=0)
        self.position_N = next_P.repeat_interleave(n, dim=0)
        return logits_PV.repeat_interleave(n, dim=0)

    def step(self, ids_N: Tensor) -> Tensor:
        vision, position_N = self.vision, self.position_N
        positions = position_N[:, None] if vision is None else vision.step_positions(position_N)
        self.mask, self.position_N = F.pad(self.mask, (0, 1), value=1), position_N + 1
        return self._forward(ids_N[:, None], positions)

    def keep(self, rows: Tensor) -> None:
        assert self.cache is not None
        self.cache.batch_select_indices(rows)
        self.mask, self.position_N = self.mask[rows], self.position_N[rows]

    def forget(self) -> None:
        self.cache: Any = None

    def _forward(self, ids: Tensor, positions: Tensor, inputs: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1, : self.vocabulary]
