"""The fused decoder in one C++ call (zero/cpu/kernels), for float32 on one thread of a CPU.

In torch a forward pass of a few rows is dozens of small operations, each with some ten microseconds of overhead, and
products of a few rows, which the usual libraries compute at a third of the memory bandwidth. Here rows have lengths of their
own: no prompt is padded, a finished row costs nothing, and a row's results do not depend on the others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zero.cpu.kernels import constant, library

PREFILL = 4096  # most prompt tokens of one call


@dataclass(frozen=True)
class Past:
    """What the prompts of a batch take from the batch before, int64 on the decoder's device."""

    row_P: Tensor  # number of the row, as the batch began
    length_P: Tensor  # its first tokens that are the prompt's first ones, without the last one of either; 0: none


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "qkv bias out gate_up down".split()]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "layers hidden inner heads kv dim positions vocabulary".split()),
        *((name, ctypes.c_void_p) for name in "embed rotation head layer".split()),
        ("eps", ctypes.c_float),
    ]


def can_compile(config: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the compiled decoder supports this model, which must have plain layers, on this device: float32, one CPU thread,
    and a head dimension that is a multiple of the panel width."""
    if dtype != torch.float32 or device.type != "cpu" or torch.get_num_threads() > 1:
        return False
    kernels = library()
    return kernels is not None and _dim(config) % constant(kernels, "panel") == 0


class CompiledDecoder:
    """See zero.rollout.decoder.Decoder.

    Norm gains and attention's 1/sqrt(D) are folded into the weights that follow them. A row keeps its slot of the cache.
    """

    goes_on = True

    def __init__(self, config: Any, vocabulary: int) -> None:
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        kernels = library()
        assert kernels is not None, "can_compile"
        self.kernels, self.panel, self.vocabulary = kernels, constant(kernels, "panel"), vocabulary
        self.rotary = LlamaRotaryEmbedding(config)  # both families use it, and it implements every rope type
        self.model = _Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            dim=_dim(config),
            heads=config.num_attention_heads,
            kv=config.num_key_value_heads,
            vocabulary=self._up(vocabulary),
            eps=config.rms_norm_eps,
        )
        self.layers = (_Layer * config.num_hidden_layers)()
        self.model.layer = ctypes.addressof(self.layers)
        self.tokens: int = config.vocab_size
        self.referenced: list[Tensor] = []  # tensors that the structures point into

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        w = {name: tensor.detach().float() for name, tensor in weights}
        embed, root, scale = w["model.embed_tokens.weight"], self.model.hidden**0.5, self.model.dim**-0.5
        self.referenced.clear()
        self.embed = self._wide(embed)
        self.model.embed = self.embed.data_ptr()
        head = w.get("lm_head.weight", embed)[: self.vocabulary]
        self.model.head = self._keep(self._panels(head, w["model.norm.weight"] * root))
        for i, layer in enumerate(self.layers):
            prefix = f"model.layers.{i}."
            for kind in ("weight", "bias"):
                q, k, v = (w.get(f"{prefix}self_attn.{p}_proj.{kind}") for p in "qkv")
                if q is None or k is None or v is None:
                    continue
                qkv = torch.cat([q * scale, k, v])
                if kind == "bias":
                    layer.bias = self._keep(self._wide(qkv))
                else:
                    layer.qkv = self._keep(self._panels(qkv, w[prefix + "input_layernorm.weight"] * root))
            gain = w[prefix + "post_attention_layernorm.weight"] * root
            gate_up = [self._panels(w[f"{prefix}mlp.{p}_proj.weight"], gain) for p in ("gate", "up")]
            layer.gate_up = self._keep(torch.cat(gate_up))
            layer.out = self._keep(self._panels(w[prefix + "self_attn.o_proj.weight"]))
            layer.down = self._keep(self._panels(w[prefix + "mlp.down_proj.weight"]))

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
        tokens = self.tokens + (0 if shown is None else len(shown))
        if int(ids_PW.max()) >= tokens:  # C++ would read beyond the embedding
            raise IndexError(f"token {int(ids_PW.max())} of {tokens}")
        table = self.embed if shown is None else torch.cat([self.embed[: self.tokens], self._wide(shown)])
        self.model.embed = table.data_ptr()  # of a tensor that outlives the call
        length_P = mask_PW.sum(dim=1)
        positions = self._up(width + budget)
        angle = torch.arange(positions)[:, None].float() * self.rotary.inv_freq
        self.rotation = torch.cat([angle.cos(), angle.sin()], dim=1) * self.rotary.attention_scaling
        self.model.positions, self.model.rotation = positions, self.rotation.data_ptr()
        taken_P = torch.zeros_like(length_P) if past is None else past.length_P
        if not taken_P.any():
            self.forget()  # before there is a second one
        cache = torch.empty(self.model.layers, 2, prompts, self.model.kv, positions * self.model.dim)
        if past is not None and taken_P.any():
            self._copy(past, cache)
        self.cache = cache
        first_P = width - length_P
        slot, column = (mask_PW.bool() & (torch.arange(width) >= (first_P + taken_P)[:, None])).nonzero().T.contiguous()
        position = column - first_P[slot]
        logits = []
        for chunk in torch.arange(prompts).split(max(1, PREFILL // int((length_P - taken_P).max()))):
            in_chunk = (slot >= chunk[0]) & (slot <= chunk[-1])
            order = torch.cat(
                [(in_chunk & (column < width - 1)).nonzero()[:, 0], (in_chunk & (column == width - 1)).nonzero()[:, 0]]
            )
            ids = ids_PW[slot[order], column[order]]
            logits.append(self._decode(ids, position[order], slot[order], last=len(chunk)))
        self.model.embed = self.embed.data_ptr()
        self.cache = self.cache.repeat_interleave(n, dim=2) if n > 1 else self.cache
        self.slot_N, self.position_N = torch.arange(prompts * n), length_P.repeat_interleave(n)
        return torch.cat(logits).repeat_interleave(n, dim=0)

    def step(self, ids_N: Tensor) -> Tensor:
        logits = self._decode(ids_N, self.position_N, self.slot_N, last=len(ids_N))
        self.position_N = self.position_N + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        self.slot_N, self.position_N = self.slot_N[rows], self.position_N[rows]

    def forget(self) -> None:
        self.cache = torch.empty(0)

    def _copy(self, past: Past, cache: Tensor) -> None:
        """Copy keys and values of rows of the cache before into the new one. See decode.cpp for how they lie."""
        (old_keys, old_values), (keys, values) = (
            (x[:, 0], x[:, 1].unflatten(3, (self.model.dim // self.panel, -1, self.panel))) for x in (self.cache, cache)
        )
        for p, (row, length) in enumerate(zip(past.row_P.tolist(), past.length_P.tolist(), strict=True)):
            width = self._up(length)
            keys[:, p, :, : width * self.model.dim] = old_keys[:, row, :, : width * self.model.dim]
            values[:, p, :, :, :width] = old_values[:, row, :, :, :width]

    def _decode(self, ids: Tensor, position: Tensor, slot: Tensor, last: int) -> Tensor:
        model, count = ctypes.byref(self.model), ctypes.c_int64
        work = torch.empty(self.kernels.decode_room(model, count(len(ids))))
        logits = torch.empty(last, self.model.vocabulary)
        cache, *tokens, work_at, logits_at = (
            ctypes.c_void_p(x.data_ptr()) for x in (self.cache, ids, position, slot, work, logits)
        )
        slots = count(self.cache.shape[2])
        self.kernels.decode(model, cache, slots, *tokens, count(len(ids)), count(last), work_at, logits_at)
        return logits[:, : self.vocabulary]

    def _up(self, n: int) -> int:
        """n rounded up to a multiple of the panel width."""
        return -(-n // self.panel) * self.panel

    def _wide(self, x: Tensor) -> Tensor:
        """x with its columns zero-padded to whole panels."""
        padding = self._up(x.shape[-1]) - x.shape[-1]
        return pad(x, (0, padding)) if padding else x.contiguous()

    def _panels(self, weight: Tensor, gain: Tensor | None = None) -> Tensor:
        """[out, in] -> [out / panel, in, panel], its inputs scaled by `gain`."""
        out, inner = weight.shape
        panels = pad(weight, (0, 0, 0, self._up(out) - out)).view(-1, self.panel, inner).mT
        return panels.contiguous() if gain is None else (panels * gain[:, None]).contiguous()

    def _keep(self, x: Tensor) -> int:
        self.referenced.append(x)
        return x.data_ptr()


def _dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def can_draw(logits: Tensor) -> bool:
    """Whether `draw` takes these logits: float32 on a CPU, with a row stride of whole panels."""
    kernels = library()
    if kernels is None or logits.dtype != torch.float32 or logits.device.type != "cpu":
        return False
    rows, columns = logits.stride()
    return columns == 1 and rows % constant(kernels, "panel") == 0 and rows >= logits.shape[1]


def draw(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """As zero.rollout.native.draw without top-k and top-p, in two passes over the logits."""
    token_N, logprob_N = torch.empty(len(logits_NV), dtype=torch.int64), torch.empty(len(logits_NV))
    kernels, count = library(), ctypes.c_int64
    assert kernels is not None, "can_draw"
    uniform_N = uniform_N.contiguous()  # bound to a name, so that a copy outlives the call
    sizes = map(count, (*logits_NV.shape, logits_NV.stride(0)))
    logits, uniform, token, logprob = (
        ctypes.c_void_p(x.data_ptr()) for x in (logits_NV, uniform_N, token_N, logprob_N)
    )
    kernels.draw(logits, *sizes, ctypes.c_float(temperature), uniform, token, logprob)
    return token_N, logprob_N
