"""A decoder layer over a packed batch, and the output head, in C++ (zero/cpu/kernels) as autograd functions, for float32 on
one thread of a CPU. The same, but for rounding, as zero/cpu/packing.py computes with the model's own modules.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from zero.cpu.kernels import constant, library

WEIGHTS = "norm qkv bias out mlp_norm gate_up down".split()
SAVED = "x qkv logsum mixed mid gated".split()  # activations for the backward pass


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "tokens hidden inner heads kv dim segments longest".split()),
        *((name, ctypes.c_void_p) for name in "segment rotation".split()),
        ("eps", ctypes.c_float),
    ]


class _Weights(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in WEIGHTS]


class _Saved(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in SAVED]


def can_compile(body: Any) -> bool:
    """Whether the kernels can compute `body`, which must have plain layers: float32, one CPU thread, projections that are
    torch's own linear layers (no adapters), and widths that are multiples of the panel width."""
    kernels = library()
    if kernels is None or torch.get_num_threads() > 1 or torch.is_autocast_enabled("cpu"):
        return False
    for layer in body.layers:  # adapters may be on some of them only
        a, mlp = layer.self_attn, layer.mlp
        linear = (a.q_proj, a.k_proj, a.v_proj, a.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        if not all(map(is_plain, linear)):
            return False
    return all(
        size % constant(kernels, "panel") == 0
        for size in (a.head_dim, a.q_proj.in_features, mlp.gate_proj.out_features)
    )


def is_plain(module: Any) -> bool:
    """Whether this is torch's own linear layer (no adapter) with a whole weight (ZeRO-3 shards it) in float32 on the CPU."""
    if (
        type(module) is not torch.nn.Linear
        or module.weight.dtype != torch.float32
        or module.weight.device.type != "cpu"
    ):
        return False
    return module.weight.shape == (module.out_features, module.in_features)


class _Layer(Function):
    """x [M, hidden] -> [M, hidden]. Weights in the order of WEIGHTS; only the bias may be None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rotation: Tensor, segments: Tensor, heads: int, eps: float, *weights: Tensor
    ) -> Tensor:
        weight = dict(zip(WEIGHTS, weights, strict=True))
        (tokens, hidden), x = x.shape, x.contiguous()
        dim, width, inner = rotation.shape[1], len(weight["qkv"]), len(weight["gate_up"]) // 2
        shape = _Shape(
            tokens=tokens,
            hidden=hidden,
            inner=inner,
            heads=heads,
            kv=(width // dim - heads) // 2,
            dim=dim,
            segments=len(segments),
            longest=max((segments[:, 1] + segments[:, 3]).tolist(), default=0),
            segment=segments.data_ptr(),
            rotation=rotation.data_ptr(),
            eps=eps,
        )
        activations = [x, *(x.new_empty(tokens, columns) for columns in (width, heads, heads * dim, hidden, 3 * inner))]
        kernels, y = _kernels(), torch.empty_like(x)
        work = x.new_empty(kernels.train_room(ctypes.byref(shape)))
        kernels.train_forward(
            ctypes.byref(shape), _pointers(_Weights, weights), _pointers(_Saved, activations), _at(y), _at(work)
        )
        if any(ctx.needs_input_grad):
            ctx.shape = shape
            ctx.save_for_backward(rotation, segments, *activations, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        _, _, *saved = ctx.saved_tensors
        activations, weights = saved[: len(SAVED)], saved[len(SAVED) :]
        dy, dx = slopes[0].contiguous(), torch.empty_like(slopes[0])
        d = [
            torch.zeros_like(weight) if weight is not None and needed else None
            for weight, needed in zip(weights, ctx.needs_input_grad[5:], strict=True)
        ]
        kernels, shape = _kernels(), ctypes.byref(ctx.shape)
        work = dy.new_empty(kernels.train_room(shape))
        kernels.train_backward(
            shape,
            _pointers(_Weights, weights),
            _pointers(_Saved, activations),
            _at(dy),
            _at(dx),
            _pointers(_Weights, d),
            _at(work),
        )
        return dx, None, None, None, None, *d


def layer(module: Any, x: Tensor, rotation: Tensor, segments: Tensor) -> Tensor:
    """The output of `module`, a decoder layer of transformers, for x [M, hidden]. rotation [M, D]: D/2 cosines and D/2 sines of
    a token's position; segments [S, 4] int64: first token and number of tokens of a segment, then of its prefix."""
    a, mlp = module.self_attn, module.mlp
    qkv = (a.q_proj, a.k_proj, a.v_proj)
    weights = (
        module.input_layernorm.weight,
        torch.cat([projection.weight for projection in qkv]),
        None if a.q_proj.bias is None else torch.cat([projection.bias for projection in qkv]),
        a.o_proj.weight,
        module.post_attention_layernorm.weight,
        torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        mlp.down_proj.weight,
    )
    heads, eps = len(a.q_proj.weight) // a.head_dim, module.input_layernorm.variance_epsilon
    hidden: Tensor = _Layer.apply(x, rotation, segments, heads, eps, *weights)
    return hidden


class _Head(Function):
    """hidden [M, H], weight [V', H], ids [M] -> log-probabilities and entropies [M]. All logits are stored once; the backward
    pass overwrites them with their gradients."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, vocabulary: int
    ) -> tuple[Tensor, Tensor]:
        hidden, ids = hidden.contiguous(), ids.contiguous()
        logits = _product(hidden, weight[:vocabulary].T)
        picked, entropy, logsum = logits.new_empty(3, len(ids))
        sizes, outputs = map(_count, logits.shape), map(_at, (picked, entropy, logsum))
        _kernels().train_logprobs(*sizes, _at(logits), _at(ids), ctypes.c_float(temperature), *outputs)
        if any(ctx.needs_input_grad):
            ctx.logits, ctx.temperature = logits, temperature
            ctx.save_for_backward(hidden, weight, ids, entropy, logsum)
        return picked, entropy

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ids, entropy, logsum = ctx.saved_tensors
        logits, ctx.logits = ctx.logits, None
        assert logits is not None, "backward twice"
        d_picked, d_entropy = (slope.contiguous() for slope in slopes)
        sizes, operands = map(_count, logits.shape), map(_at, (entropy, logsum, d_picked, d_entropy))
        _kernels().train_logprobs_back(*sizes, _at(logits), _at(ids), ctypes.c_float(ctx.temperature), *operands)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        used = weight[: logits.shape[1]]
        d_weight = None
        if needs_weight:
            d_weight = torch.zeros_like(weight)
            _product(logits.T, hidden, d_weight[: logits.shape[1]])
        return _product(logits, used) if needs_hidden else None, d_weight, None, None, None


def head(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Log-probability of ids [M] and entropy [M], in nats, under the logits hidden [M, H] @ weight [V', H].T of the first
    `vocabulary` tokens, at a temperature: zero.objective.logprob_and_entropy of them. One backward pass."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:  # C++ would read beyond the logits
        raise IndexError(f"tokens {int(ids.min())} to {int(ids.max())} of {vocabulary}")
    logprob_entropy: tuple[Tensor, Tensor] = _Head.apply(hidden, weight, ids, temperature, vocabulary)
    return logprob_entropy


def _product(a: Tensor, b: Tensor, y: Tensor | None = None) -> Tensor:
    """a [m, k] @ b [k, n], each contiguous or the transpose of a contiguous tensor; into y, if given."""
    kernels = _kernels()
    y = a.new_empty(len(a), b.shape[1]) if y is None else y
    work = a.new_empty(constant(kernels, "product_room"))
    strides_a, strides_b = (map(_count, operand.stride()) for operand in (a, b))
    sizes = map(_count, (*y.shape, a.shape[1]))
    kernels.train_multiply(*sizes, _at(a), *strides_a, _at(b), *strides_b, _at(y), _at(work))
    return y


def _kernels() -> ctypes.CDLL:
    kernels = library()
    assert kernels is not None, "can_compile"
    return kernels


_count = ctypes.c_int64


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _pointers(kind: type[ctypes.Structure], tensors: Any) -> Any:
    return ctypes.byref(kind(*(None if x is None else x.data_ptr() for x in tensors)))
