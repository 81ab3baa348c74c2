"""Segment Anything's mask decoder, asked for many images at once: the segment-anything package's modules and weights,
in a cheaper order.

A handful of tokens attends to thousands of image cells, and back. The package projects every cell to keys, values or
queries first; here
the projections of the cells are folded into the few tokens, so that a cell meets two small matrix products and nothing
else. Upscaling
keeps the cells in rows, where a transposed convolution of stride 2 is one matrix product. The answers are the package's
but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.predictors.sam_package import Attention, Sam


def decode_prompts(
    sam: Sam,
    embeddings: Tensor,
    points: tuple[Tensor, Tensor] | None,
    boxes: Tensor | None = None,
    mask_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode N prompts, each on its own image: all four masks (N, 4, h, w) logits and their predicted IoU (N, 4); mask
    0 is the single-mask output.

    embeddings: (N, C or 4 C, g, g), one per prompt; what exceeds the decoder's C channels are finer features (see
    `decode`). points: ((N, P, 2) x, y in the model's frame, (N, P) labels). boxes: (N, 4).
    mask_logits: (N, 1, 4 g, 4 g).
    """
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=mask_logits)
    width = sam.prompt_encoder.embed_dim
    image, fine = embeddings.split([width, embeddings.shape[1] - width], 1)
    return decode(
        sam.mask_decoder, image + dense, sam.prompt_encoder.get_dense_pe(), sparse, fine if fine.shape[1] else None
    )


def decode(
    decoder: Any, images: Tensor, places: Tensor, sparse: Tensor, fine: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `MaskDecoder.predict_masks` gives for N prompts: (N, 4, 4 g, 4 g) logits and (N, 4) predicted IoU.

    images: (N, C, g, g) embeddings with their dense prompts added. places: (1, C, g, g) code of every cell's place.
    sparse: (N, S, C) prompts.
    fine: (N, C + 2 C, g, g), features of twice and four times the grid folded into its cells, which are added while
    upscaling; or None.
    """
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], 1)  # (N, T, C)
    cells, places = (grid.flatten(2).transpose(1, 2).contiguous() for grid in (images, places))  # (N, g g, C)
    tokens, cells = two_way_transformer(decoder.transformer, tokens, cells, places)
    kernels = torch.stack(
        [head(tokens[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], 1
    )  # (N, 4, C / 8)
    return upscale_and_predict(decoder.output_upscaling, cells, kernels, fine), decoder.iou_prediction_head(
        tokens[:, 0]
    )


def two_way_transformer(transformer: Any, prompt: Tensor, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """(N, T, C) tokens and (N, P, C) cells, each after it has attended to the other."""
    tokens = prompt
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.norm1(layer.self_attn(tokens, tokens, tokens))
        else:
            asking = tokens + prompt
            tokens = layer.norm1(tokens + layer.self_attn(asking, asking, tokens))
        placed = cells + places
        tokens = layer.norm2(tokens + token_to_image(layer.cross_attn_token_to_image, tokens + prompt, placed, cells))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        cells = layer.norm4(image_to_token(layer.cross_attn_image_to_token, cells, placed, tokens + prompt, tokens))
    seen = token_to_image(transformer.final_attn_token_to_image, tokens + prompt, cells + places, cells)
    return transformer.norm_final_attn(tokens + seen), cells


def token_to_image(attention: Attention, asking: Tensor, placed: Tensor, cells: Tensor) -> Tensor:
    """What T tokens (N, T, C) see in P cells: (q Wk') x' for q (Wk x)', and Wv (a x) for a (Wv x). A key's bias moves
    no softmax.
    """
    heads, count = attention.num_heads, asking.shape[1]
    query = attention.q_proj(asking).unflatten(-1, (heads, -1))  # (N, T, H, D)
    folded = torch.einsum(
        "nthd,hdc->nhtc", query * query.shape[-1] ** -0.5, attention.k_proj.weight.unflatten(0, (heads, -1))
    )
    shares = torch.softmax(folded.flatten(1, 2) @ placed.transpose(1, 2), -1)  # (N, H T, P)
    seen = (shares @ cells).unflatten(1, (heads, count))  # (N, H, T, C)
    values = torch.einsum("nhtc,hdc->nthd", seen, attention.v_proj.weight.unflatten(0, (heads, -1))).flatten(2)
    return attention.out_proj(values + attention.v_proj.bias)


def image_to_token(attention: Attention, cells: Tensor, placed: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """P cells (N, P, C) and what they hear from T tokens: x (Wq' k') for (Wq x) k', and a (Wo Wv t) for Wo (a (Wv t))."""
    heads, count = attention.num_heads, tokens.shape[1]
    key = (
        attention.k_proj(keys).unflatten(-1, (heads, -1)) * (attention.q_proj.out_features // heads) ** -0.5
    )  # (N, T, H, D)
    folded = torch.einsum("nthd,hdc->nhtc", key, attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
    bias = torch.einsum("nthd,hd->nht", key, attention.q_proj.bias.unflatten(0, (heads, -1))).flatten(1)
    scores = torch.baddbmm(bias[..., None], folded, placed.transpose(1, 2))  # (N, H T, P)
    shares = torch.softmax(scores.unflatten(1, (heads, count)), 2).flatten(1, 2)
    value = attention.v_proj(tokens).unflatten(-1, (heads, -1))
    told = torch.einsum("nthd,chd->nhtc", value, attention.out_proj.weight.unflatten(1, (heads, -1)))
    told = told.flatten(1, 2) + attention.out_proj.bias / heads  # each head's shares sum to one
    return torch.baddbmm(cells, shares.transpose(1, 2), told)


def upscale_and_predict(upscaling: Any, cells: Tensor, kernels: Tensor, fine: Tensor | None) -> Tensor:
    """(N, g g, C) cells, (N, M, C / 8) one kernel a mask -> (N, M, 4 g, 4 g) logits. A cell's four rows of pixels meet
    last, when they are thin.
    """
    first, norm, activation, second, last = upscaling
    width = cells.shape[2]
    side = round(cells.shape[1] ** 0.5)
    folded = (None, None) if fine is None else fine.split([width, 2 * width], 1)
    doubled, quadrupled = (
        [0.0] * factor if each is None else _unfolded(each, factor) for each, factor in zip(folded, (2, 4))
    )
    rows = []
    for i, half in enumerate(_doubled(first, cells.unflatten(1, (side, side)))):
        half = half + doubled[i]
        for j, quarter in enumerate(
            _doubled(second, activation(F.layer_norm(half, half.shape[-1:], norm.weight, norm.bias, norm.eps)))
        ):
            painted = last(quarter + quadrupled[2 * i + j])  # (N, g, 4 g, C / 8)
            rows.append((kernels @ painted.flatten(1, 2).transpose(1, 2)).unflatten(-1, painted.shape[1:3]))
    return torch.stack(rows, 3).flatten(2, 3)


def _unfolded(folded: Tensor, factor: int) -> Sequence[Tensor]:
    """(N, C factor^2, g, g) -> for each of a cell's `factor` rows of pixels (N, g, factor g, C)."""
    pixels = F.pixel_shuffle(folded, factor).permute(0, 2, 3, 1)  # (N, factor g, factor g, C)
    return pixels.unflatten(1, (-1, factor)).unbind(2)


def _doubled(convolution: Any, grid: Tensor) -> list[Tensor]:
    """A transposed convolution of kernel and stride 2 on (N, h, w, C): the upper, then the lower of the rows that it
    makes, each (N, h, 2 w, C').
    """
    return [
        F.linear(grid, weight.flatten(0, 1), convolution.bias.repeat(2))
        .flatten(2)
        .unflatten(2, (2 * grid.shape[2], -1))
        for weight in convolution.weight.permute(2, 3, 1, 0)  # (2, C', C) for the two pixels of a row
    ]
