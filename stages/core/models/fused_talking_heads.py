# ruff: noqa: RUF005  (Triton joins tuples by + alone)
# mypy: disable-error-code="no-untyped-def,assignment,index"
"""CaiT's talking-heads attention in one Triton kernel, forward alone: no attention map leaves the chip.

Attention kernels see one score of one head at a time; talking heads mix the scores of all heads, twice (Touvron et al.
2021; Shazeer et al. 2020). A program holds the maps of all heads for a few rows (queries) of an image, transposed,
[keys, rows], so that the keys, of which there are more, fill the tensor cores' longer side. What fits is held whole;
else a first pass over the keys finds each row's maximum and sum, and a second one computes the maps again.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

HELD = 2**15  # logits of a program, over all heads: 128 KiB in float32, half of the registers of a multiprocessor
KEYS = 64  # in a tile where they do not fit at once: one instruction's rows on the tensor cores
LEAST_ROWS = 16  # of an operand of tl.dot
WARPS = (
    8  # a thread then holds 128 logits in its 255 registers: CaiT-S24's program spills none on sm_90 (Triton 3.6, 3.8)
)
STAGES = 2  # a head is loaded while the one before is computed


@torch.library.custom_op("encoding_mismatch::talking_heads", mutates_args=())
def talking_heads(qkv: Tensor, before: Tensor, after: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention whose maps are mixed over heads before and after the softmax.

    With queries Qₕ, keys Kₕ and values Vₕ of head h, each [tokens, channels of a head], of one image:

        Sₕ = scale · Qₕ Kₕᵀ        L_g = Σₕ before[g, h] Sₕ        P_g = softmax(L_g) over the keys
        A_g = Σₕ after[g, h] Pₕ + bias[g]        O_g = A_g V_g

    timm's bias of the first mixture (`proj_l.bias`) is left out: it is equal for all keys, and the softmax ignores it.
    Operands of matrix products have the type of `qkv`, so that A is rounded to it; all else is float32.

    Args:
        qkv: [images, tokens, 3 × channels]: the queries of all heads side by side, then their keys, then their values.
        before, after: [heads, heads].
        bias: [heads].
        scale: of the scores.

    Returns:
        [images, tokens, channels], the heads side by side, in the type of `qkv`.
    """
    images, tokens, width = qkv.shape
    kernel, sizes = program(len(before), tokens, width // 3 // len(before))
    out = qkv.new_empty(images, tokens, width // 3)
    with torch.cuda.device_of(qkv):
        kernel[triton.cdiv(tokens, sizes["ROWS"]), images](
            qkv.contiguous(),
            out,
            before.contiguous(),
            after.contiguous(),
            bias,
            tokens,
            scale * math.log2(math.e),  # powers of 2 take one instruction
            **sizes,
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return out


def program(heads: int, tokens: int, width: int) -> tuple[Any, dict[str, int]]:
    """The kernel for a shape, and its constants: how many rows and keys a program holds at a time.

    Args:
        heads, tokens: of an image.
        width: channels of a head.
    """
    padded = triton.next_power_of_2(tokens)
    kernel, keys = _attend, max(KEYS, padded)
    held = HELD // triton.next_power_of_2(heads)
    if held // keys < LEAST_ROWS:
        kernel, keys = _attend_by_tiles, KEYS
        held //= 2  # the other half is for the outputs
    rows = max(LEAST_ROWS, min(held // keys, padded))
    sizes = {"HEADS": heads, "WIDTH": width, "PADDED": max(16, triton.next_power_of_2(width))}
    return kernel, {**sizes, "ROWS": rows, "KEYS": keys}


@talking_heads.register_fake
def _(qkv: Tensor, before: Tensor, after: Tensor, bias: Tensor, scale: float) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@triton.jit
def _attend(
    qkv,
    out,
    before,
    after,
    bias,
    tokens,
    scale,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Some rows of all heads of one image, with all keys at once."""
    channels: tl.constexpr = HEADS * WIDTH
    first = tl.program_id(1).to(tl.int64) * tokens
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    keys = tl.arange(0, KEYS)
    dims = tl.arange(0, PADDED)
    image = qkv + first * 3 * channels
    at_rows = rows[None, :] * (3 * channels) + dims[:, None]  # [PADDED, ROWS]
    at_keys = keys[:, None] * (3 * channels) + dims[None, :]  # [KEYS, PADDED]
    row_mask = (rows < tokens)[None, :] & (dims < WIDTH)[:, None]
    key_mask = (keys < tokens)[:, None] & (dims < WIDTH)[None, :]

    logits = _mixed_logits(
        image + at_rows, image + channels + at_keys, row_mask, key_mask, keys < tokens, before, scale, HEADS, WIDTH
    )
    shares = ()
    for head in tl.static_range(HEADS):
        powers = tl.exp2(logits[head] - tl.max(logits[head], 0)[None, :])
        shares = shares + (powers * (1.0 / tl.sum(powers, 0))[None, :],)
    for mixed in tl.range(HEADS):
        weights = _mixed_shares(shares, after + mixed * HEADS, bias + mixed, HEADS)
        value = tl.load(image + 2 * channels + at_keys + mixed * WIDTH, mask=key_mask, other=0.0)
        found = tl.dot(tl.trans(value), weights.to(value.dtype), input_precision="ieee")
        place = out + first * channels + rows[None, :] * channels + dims[:, None] + mixed * WIDTH
        tl.store(place, found.to(out.dtype.element_ty), mask=row_mask)


@triton.jit
def _attend_by_tiles(
    qkv,
    out,
    before,
    after,
    bias,
    tokens,
    scale,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Some rows of all heads of one image, with KEYS keys at a time, in two passes."""
    channels: tl.constexpr = HEADS * WIDTH
    first = tl.program_id(1).to(tl.int64) * tokens
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED)
    image = qkv + first * 3 * channels
    query = image + rows[None, :] * (3 * channels) + dims[:, None]  # [PADDED, ROWS]
    row_mask = (rows < tokens)[None, :] & (dims < WIDTH)[:, None]

    tops = ()
    totals = ()
    results = ()
    for _ in tl.static_range(HEADS):
        tops = tops + (tl.full([ROWS], float("-inf"), tl.float32),)
        totals = totals + (tl.full([ROWS], 0.0, tl.float32),)
        results = results + (tl.full([PADDED, ROWS], 0.0, tl.float32),)
    for start in tl.range(0, tokens, KEYS):
        keys = start + tl.arange(0, KEYS)
        at_keys = keys[:, None] * (3 * channels) + dims[None, :]  # [KEYS, PADDED]
        key_mask = (keys < tokens)[:, None] & (dims < WIDTH)[None, :]
        logits = _mixed_logits(
            query, image + channels + at_keys, row_mask, key_mask, keys < tokens, before, scale, HEADS, WIDTH
        )
        higher = ()
        larger = ()
        for head in tl.static_range(HEADS):
            top = tl.maximum(tops[head], tl.max(logits[head], 0))
            added = tl.sum(tl.exp2(logits[head] - top[None, :]), 0)
            higher = higher + (top,)
            larger = larger + (totals[head] * tl.exp2(tops[head] - top) + added,)
        tops = higher
        totals = larger
    for start in tl.range(0, tokens, KEYS):
        keys = start + tl.arange(0, KEYS)
        at_keys = keys[:, None] * (3 * channels) + dims[None, :]
        key_mask = (keys < tokens)[:, None] & (dims < WIDTH)[None, :]
        logits = _mixed_logits(
            query, image + channels + at_keys, row_mask, key_mask, keys < tokens, before, scale, HEADS, WIDTH
        )
        shares = ()
        for head in tl.static_range(HEADS):
            powers = tl.exp2(logits[head] - tops[head][None, :])
            shares = shares + (powers * (1.0 / totals[head])[None, :],)
        sums = ()
        for mixed in tl.static_range(HEADS):
            weights = _mixed_shares(shares, after + mixed * HEADS, bias + mixed, HEADS)
            value = tl.load(image + 2 * channels + at_keys + mixed * WIDTH, mask=key_mask, other=0.0)
            product = tl.dot(tl.trans(value), weights.to(value.dtype), results[mixed], input_precision="ieee")
            sums = sums + (product,)
        results = sums
    for head in tl.static_range(HEADS):
        place = out + first * channels + rows[None, :] * channels + dims[:, None] + head * WIDTH
        tl.store(place, results[head].to(out.dtype.element_ty), mask=row_mask)


@triton.jit
def _mixed_logits(query, key, row_mask, key_mask, present, before, scale, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """Of each head the mixed scores [keys, rows], to base 2; of keys that are not present, -inf."""
    logits = ()
    for _ in tl.static_range(HEADS):
        logits = logits + (tl.full([key_mask.shape[0], row_mask.shape[1]], 0.0, tl.float32),)
    for source in tl.range(HEADS):
        q = tl.load(query + source * WIDTH, mask=row_mask, other=0.0)
        k = tl.load(key + source * WIDTH, mask=key_mask, other=0.0)
        scores = tl.dot(k, q, input_precision="ieee") * scale
        sums = ()
        for head in tl.static_range(HEADS):
            weight = tl.load(before + head * HEADS + source).to(tl.float32)
            sums = sums + (logits[head] + weight * scores,)
        logits = sums
    masked = ()
    for head in tl.static_range(HEADS):
        masked = masked + (tl.where(present[:, None], logits[head], float("-inf")),)
    return masked


@triton.jit
def _mixed_shares(shares, after, bias, HEADS: tl.constexpr):
    """One head's mixture of all heads' shares [keys, rows], plus its bias."""
    weights = shares[0] * tl.load(after).to(tl.float32) + tl.load(bias).to(tl.float32)
    for head in tl.static_range(1, HEADS):
        weights += shares[head] * tl.load(after + head).to(tl.float32)
    return weights
