"""The forward pass of a batch of responses without padding, and with every distinct prompt computed once.

The tokens of a batch [N, T] are packed into one row: every distinct prompt once, then each response's own tokens:

    prompt a | prompt b | ... | response 1 | response 2 | ...          [M, H]

All products with weights run over that row. Only attention needs separate responses: those of similar length form a padded
block, whose queries see the keys of their shared prompt and their own up to themselves. Autograd sums a shared prompt's
gradient over its responses. In a step of 16 questions x 8 answers half to four fifths of all tokens are copies of prompts.
zero/cpu/layers.py computes the layers where it can; else the model's own modules do (so that adapters work).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from zero.batching import micro_batches
from zero.cpu import layers
from zero.cpu.architectures import has_plain_layers
from zero.cpu.image_features import embedded, features, language_model, model_inputs, numbered
from zero.records import Batch
from zero.vision import Images, Vision

SIMILAR = 0.6  # the shortest response of a block has at least this share of the longest one's tokens


def can_pack(body: Any, device: torch.device) -> bool:
    """Whether `body`, the base model of a causal language model, has plain layers, and `device` is a CPU: on GPUs transformers'
    own forward pass with fused attention is used.

    Call it for each batch, with the device of its tensors: DeepSpeed moves a model after its policy has been built.
    """
    return device.type == "cpu" and has_plain_layers(body.config)


def split_rows(packs: bool, batch: Batch, rows: Tensor, tokens: int) -> list[Tensor]:
    """`rows` split into micro-batches of at most `tokens` tokens: distinct ones if the model packs, else padded ones."""
    if packs:
        ids_NT = batch.ids_NT
        if batch.images_N is not None:  # a prompt is its images, too: a column that tells them apart
            images: dict[tuple[tuple[int, str], ...], int] = {}
            number_N = torch.tensor([images.setdefault(row, len(images)) for row in batch.images_N])
            ids_NT = torch.cat([number_N[:, None], ids_NT], dim=1)
            mask_NT = pad(batch.mask_NT, (1, 0))
            return packed_micro_batches(ids_NT, mask_NT, batch.length_N + 1, rows, tokens)
        return packed_micro_batches(ids_NT, batch.mask_NT, batch.length_N, rows, tokens)
    return micro_batches(batch, rows, tokens)


def by_prompt(ids_NT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """(prompt_N, start_N): the number of each row's prompt, and the tokens of that prompt.

    `mask_NT` marks the response tokens. A row without any counts as a prompt of one token.
    """
    start_N = mask_NT.bool().int().argmax(dim=1).clamp(min=1)
    known: dict[bytes, int] = {}
    rows = ids_NT.numpy()
    keys = [rows[n, :start].tobytes() for n, start in enumerate(start_N.tolist())]
    return torch.tensor([known.setdefault(key, len(known)) for key in keys]), start_N


def packed_micro_batches(ids_NT: Tensor, mask_NT: Tensor, length_N: Tensor, rows: Tensor, tokens: int) -> list[Tensor]:
    """Split `rows` into micro-batches of at most `tokens` distinct tokens (at least one row each), the rows of a prompt
    together where they fit, the longest first, so that running out of memory shows at once."""
    prompt_N, start_N = by_prompt(ids_NT[rows], mask_NT[rows])
    own_N = length_N[rows] - start_N
    members: dict[int, list[int]] = {}
    for i in torch.sort(own_N, descending=True, stable=True).indices.tolist():
        members.setdefault(int(prompt_N[i]), []).append(i)
    lengths = {prompt: int(start_N[rows_of_prompt[0]]) for prompt, rows_of_prompt in members.items()}
    totals = {prompt: lengths[prompt] + int(own_N[rows_of_prompt].sum()) for prompt, rows_of_prompt in members.items()}
    batches: list[list[int]] = []
    left = 0
    for prompt in sorted(members, key=lambda p: -totals[p]):
        if totals[prompt] > left:
            batches.append([])
            left = tokens
        left -= lengths[prompt]
        for i in members[prompt]:
            if int(own_N[i]) > left and batches[-1]:
                batches.append([])
                left = tokens - lengths[prompt]
            batches[-1].append(i)
            left -= int(own_N[i])
    return [rows[torch.tensor(indices)] for indices in batches if indices]


@dataclass(frozen=True)
class Block:
    """Responses of similar length: the positions in the row of their n x L padded tokens and of their prompts' n x W tokens, and
    the attention mask. `visible` [n, 1, L, W + L] is 0 or -inf."""

    own_nL: Tensor
    prompt_nW: Tensor
    visible: Tensor
    real: Tensor  # indices into n * L that are no padding


@dataclass(frozen=True)
class Layout:
    """The positions of a batch's tokens in the row of M tokens."""

    ids_M: Tensor
    position_M: Tensor
    predicts: Tensor  # for each response token, in the order of the mask: the token before it
    # Prompts, then responses: first token and number of tokens; the same of its prompt (0 for a prompt)
    segments_S4: Tensor
    place_NT: Tensor  # position in the row of every token of the batch
    rows: tuple[int, ...]  # for each response among the segments its row in the batch


def layout(ids_NT: Tensor, mask_NT: Tensor) -> Layout:
    """The layout of the tokens from which those of `mask_NT` are predicted."""
    prompt_N, start_N = by_prompt(ids_NT, mask_NT)
    response_NT = mask_NT.bool()
    last_N = response_NT.shape[1] - 1 - response_NT.flip(1).int().argmax(dim=1)
    # Response tokens that predict another; -1: a row without response tokens
    count_N = torch.where(response_NT.any(dim=1), last_N - start_N, -1)
    order = [n for n in torch.sort(count_N, descending=True, stable=True).indices.tolist() if count_N[n] >= 0]
    prompt_of, start, count = prompt_N.tolist(), start_N.tolist(), count_N.tolist()
    first_token: dict[int, int] = {}  # of a prompt, in the row
    ids, positions, segments, used = [], [], [], 0
    for prompt, n in {prompt_of[n]: n for n in reversed(order)}.items():  # n: one row of the prompt
        first_token[prompt] = used
        ids.append(ids_NT[n, : start[n]])
        positions.append(torch.arange(start[n]))
        segments.append((used, start[n], 0, 0))
        used += start[n]
    place_NT = torch.zeros(ids_NT.shape, dtype=torch.int64)
    for n in order:
        end = start[n] + count[n]
        place_NT[n, : start[n]] = torch.arange(start[n]) + first_token[prompt_of[n]]
        place_NT[n, start[n] : end] = torch.arange(count[n]) + used
        ids.append(ids_NT[n, start[n] : end])
        positions.append(torch.arange(start[n], end))
        if count[n]:
            segments.append((used, count[n], first_token[prompt_of[n]], start[n]))
        used += count[n]
    return Layout(
        ids_M=torch.cat(ids) if ids else ids_NT.new_zeros(0),
        position_M=torch.cat(positions) if positions else torch.zeros(0, dtype=torch.int64),
        predicts=place_NT[:, :-1][response_NT[:, 1:]],
        segments_S4=torch.tensor(segments, dtype=torch.int64).view(-1, 4),
        place_NT=place_NT,
        rows=tuple(n for n in order if count[n]),
    )


@dataclass(frozen=True)
class Padded:
    """A layout as padded blocks, for attention."""

    prompts_PW: Tensor  # positions in the row, right-padded; padding points at token 0
    prompt_tokens: Tensor  # indices into P * W that are no padding
    blocks: tuple[Block, ...]


def padded(packing: Layout, dtype: torch.dtype) -> Padded:
    """The prompts as one block, and a block for responses of similar length."""
    first_P, length_P = packing.segments_S4[packing.segments_S4[:, 3] == 0, :2].T
    start_R, count_R = packing.segments_S4[packing.segments_S4[:, 3] > 0][:, [3, 1]].T
    w = torch.arange(int(length_P.max()) if len(length_P) else 0)
    real_PW = w < length_P[:, None]
    blocks, begin, counts = [], 0, count_R.tolist()
    for r in range(1, len(counts) + 1):  # sorted by length
        if r == len(counts) or counts[r] < SIMILAR * counts[begin]:
            rows = torch.tensor(packing.rows[begin:r])
            blocks.append(_block(packing.place_NT, start_R[begin:r], count_R[begin:r], rows, dtype))
            begin = r
    return Padded((first_P[:, None] + w).masked_fill(~real_PW, 0), real_PW.flatten().nonzero()[:, 0], tuple(blocks))


def _block(place_NT: Tensor, start_n: Tensor, count_n: Tensor, rows: Tensor, dtype: torch.dtype) -> Block:
    width, length = int(start_n.max()), int(count_n.max())
    w, i = torch.arange(width), torch.arange(length)
    column_nL = (start_n[:, None] + i).clamp(max=place_NT.shape[1] - 1)
    before_nW = w < start_n[:, None]
    # [n, L, W + L]: a token sees its prompt, and its own response up to itself
    prompt_nLW = before_nW[:, None, :].expand(-1, length, -1)
    sees = torch.cat([prompt_nLW, (i[:, None] >= i).expand(len(rows), -1, -1)], dim=2)
    visible = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, float("-inf"))[:, None]
    return Block(
        own_nL=place_NT[rows[:, None], column_nL],
        prompt_nW=place_NT[rows, :width].masked_fill(~before_nW, 0),
        visible=visible,
        real=(i < count_n[:, None]).flatten().nonzero()[:, 0],
    )


def hidden_states(
    body: Any,
    ids_NT: Tensor,
    mask_NT: Tensor,
    images_N: Sequence[Images] | None = None,
    vision: Vision | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """The last hidden states [tokens, H] of the base model `body` from which the response tokens are predicted, in the order of
    `mask_NT[:, 1:]`: packed where it can be."""
    if can_pack(body, ids_NT.device):
        return packed_states(body, ids_NT, mask_NT, images_N, vision, checkpointing)
    ids_NT, inputs = model_inputs(body, ids_NT[:, :-1], mask_NT[:, :-1] == 0, images_N, vision)
    states: Tensor = body(input_ids=ids_NT, use_cache=False, **inputs).last_hidden_state
    return states[mask_NT[:, 1:].bool()]


def packed_states(
    body: Any,
    ids_NT: Tensor,
    mask_NT: Tensor,
    images_N: Sequence[Images] | None = None,
    vision: Vision | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """`hidden_states` of tokens packed into one row, equal but for rounding."""
    shown = None
    text = language_model(body)
    if images_N is not None and any(images_N):
        assert vision is not None, "a model of text alone has no row with images"
        first = text.embed_tokens.num_embeddings
        ids_NT, digests = numbered(ids_NT, mask_NT == 0, images_N, vision, first)
        shown = features(body, digests, vision, ids_NT.device)
    body = text
    packing = layout(ids_NT, mask_NT)
    x = embedded(body.embed_tokens, packing.ids_M, shown)
    cosine, sine = (table[0] for table in body.rotary_emb(x, packing.position_M[None]))  # [M, D], each half twice
    compute: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    if layers.can_compile(body):
        half = cosine.shape[1] // 2
        compute, arguments = layers.layer, (torch.cat([cosine[:, :half], sine[:, :half]], dim=1), packing.segments_S4)
    else:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        compute, arguments = _layer, ((cosine[:, None], sine[:, None]), padded(packing, dtype))
    for layer in body.layers:
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(compute, layer, x, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            x = compute(layer, x, *arguments)
    return body.norm(x.index_select(0, packing.predicts))


def _layer(layer: Any, x: Tensor, rotation: tuple[Tensor, Tensor], blocks: Padded) -> Tensor:
    attention = layer.self_attn
    h = layer.input_layernorm(x)
    q, k, v = (
        project(h).unflatten(1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    attended = _attend(_rotated(q, rotation), _rotated(k, rotation), v, blocks, attention.scaling)
    x = x + attention.o_proj(attended)
    return x + layer.mlp(layer.post_attention_layernorm(x))


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """[M, heads, D] rotated by position."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor, padded: Padded, scale: float) -> Tensor:
    """[M, heads, D], [M, kv, D] twice -> [M, heads * D]. Query heads that share a key head form one product."""
    shared = q.shape[1] // k.shape[1]
    prompts = _gather(q, padded.prompts_PW), _gather(k, padded.prompts_PW), _gather(v, padded.prompts_PW)
    attended = scaled_dot_product_attention(*prompts, is_causal=True, scale=scale, enable_gqa=shared > 1)
    outputs = [attended.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, padded.prompt_tokens)]
    for block in padded.blocks:
        keys, values = (torch.cat([_gather(x, block.prompt_nW), _gather(x, block.own_nL)], dim=2) for x in (k, v))
        attended = scaled_dot_product_attention(
            _gather(q, block.own_nL), keys, values, attn_mask=block.visible, scale=scale, enable_gqa=shared > 1
        )
        outputs.append(attended.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, block.real))
    return torch.cat(outputs)


def _gather(x: Tensor, where: Tensor) -> Tensor:
    """[M, heads, D] at [n, L] -> [n, heads, L, D]."""
    return x.index_select(0, where.flatten()).unflatten(0, where.shape).transpose(1, 2)
