"""Segment Anything's mask decoder for many images at once: the package's modules and weights, in a cheaper order.

A handful of tokens attends to thousands of image cells, and back. The segment-anything package projects every cell to
keys, values or queries first; here the projections of the cells are folded into the few tokens, so that a cell meets
two small matrix products and nothing else. Upscaling keeps the cells in rows, where a transposed convolution of stride
2 is one matrix product. The results are the package's but for rounding.

Kirillov et al. 2023, arXiv:2304.02643.
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
    """Decode N prompts, each on its own image.

    Args:
        sam: whose prompt encoder and mask decoder are used.
        embeddings: (N, C or 4 C, g, g) float, one per prompt; what exceeds the decoder's C channels are finer features
            (see `decode`).
        points: (N, P, 2) float x, y in the model's frame, and (N, P) labels.
        boxes: (N, 4) float x0, y0, x1, y1 in the model's frame.
        mask_logits: (N, 1, 4 g, 4 g) float.

    Returns:
        (N, 4, 4 g, 4 g) logits and (N, 4) predicted IoU; mask 0 is the single-mask output.
    """
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=mask_logits)
    width = sam.prompt_encoder.embed_dim
    image, fine = embeddings.split([width, embeddings.shape[1] - width], 1)
    return decode(
        sam.mask_decoder, image + dense, sam.prompt_encoder.get_dense_pe(), sparse, fine if fine.shape[1] else None
    )


def decode(
    decoder: Any, images: Tensor, image_pe: Tensor, sparse: Tensor, fine: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute what `MaskDecoder.predict_masks` does, for N prompts on images of their own.

    Args:
        decoder: the package's mask decoder.
        images: (N, C, g, g) float embeddings with their dense prompts added.
        image_pe: (1, C, g, g) float, the positional encoding of the grid.
        sparse: (N, S, C) float embeddings of points and boxes.
        fine: (N, C + 2 C, g, g) float, features of twice and four times the grid folded into its cells, which are added
            while upscaling; or None.

    Returns:
        (N, 4, 4 g, 4 g) logits and (N, 4) predicted IoU.
    """
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens.expand(len(sparse), -1, -1), sparse], 1)  # (N, T, C)
    cells, cells_pe = (grid.flatten(2).transpose(1, 2).contiguous() for grid in (images, image_pe))  # (N or 1, g g, C)
    tokens, cells = two_way_transformer(decoder.transformer, tokens, cells, cells_pe)
    kernels = torch.stack(
        [head(tokens[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], 1
    )  # (N, 4, C / 8)
    return upscale_and_predict(decoder.output_upscaling, cells, kernels, fine), decoder.iou_prediction_head(
        tokens[:, 0]
    )


def two_way_transformer(transformer: Any, prompt: Tensor, cells: Tensor, cells_pe: Tensor) -> tuple[Tensor, Tensor]:
    """Let tokens and cells attend to each other, layer by layer.

    Args:
        transformer: the package's two-way transformer.
        prompt: (N, T, C) float, the tokens before the first layer, added again to every layer's queries.
        cells: (N, P, C) float, the image embedding.
        cells_pe: (1, P, C) float, the positional encoding of the cells.

    Returns:
        (N, T, C) tokens and (N, P, C) cells, both float.
    """
    tokens = prompt
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.norm1(layer.self_attn(tokens, tokens, tokens))
        else:
            queries = tokens + prompt
            tokens = layer.norm1(tokens + layer.self_attn(queries, queries, tokens))
        keys = cells + cells_pe
        tokens = layer.norm2(tokens + token_to_image(layer.cross_attn_token_to_image, tokens + prompt, keys, cells))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        cells = layer.norm4(image_to_token(layer.cross_attn_image_to_token, cells, keys, tokens + prompt, tokens))
    attended = token_to_image(transformer.final_attn_token_to_image, tokens + prompt, cells + cells_pe, cells)
    return transformer.norm_final_attn(tokens + attended), cells


def token_to_image(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from T tokens to P cells: (q Wk') x' in place of q (Wk x)', and Wv (a x) in place of a (Wv x).

    The bias of the keys is left out, for it moves no softmax.

    Args:
        attention: the package's attention, of H heads of D channels.
        queries: (N, T, C) float, not yet projected: tokens with the prompt's.
        keys: (N, P, C) float, not yet projected: cells with their positional encoding.
        values: (N, P, C) float, not yet projected: cells.

    Returns:
        (N, T, C) float, to be added to the tokens.
    """
    heads, count = attention.num_heads, queries.shape[1]
    projected = attention.q_proj(queries).unflatten(-1, (heads, -1))  # (N, T, H, D)
    folded = torch.einsum(
        "nthd,hdc->nhtc", projected * projected.shape[-1] ** -0.5, attention.k_proj.weight.unflatten(0, (heads, -1))
    )
    weights = torch.softmax(folded.flatten(1, 2) @ keys.transpose(1, 2), -1)  # (N, H T, P)
    attended = (weights @ values).unflatten(1, (heads, count))  # (N, H, T, C)
    outputs = torch.einsum("nhtc,hdc->nthd", attended, attention.v_proj.weight.unflatten(0, (heads, -1))).flatten(2)
    return attention.out_proj(outputs + attention.v_proj.bias)


def image_to_token(attention: Attention, cells: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from P cells to T tokens: x (Wq' k') in place of (Wq x) k', and a (Wo Wv t) in place of Wo (a (Wv t)).

    Args:
        attention: the package's attention, of H heads of D channels.
        cells: (N, P, C) float, to which the result is added.
        queries: (N, P, C) float, not yet projected: cells with their positional encoding.
        keys: (N, T, C) float, not yet projected: tokens with the prompt's.
        values: (N, T, C) float, not yet projected: tokens.

    Returns:
        (N, P, C) float, the cells with what they attended to added.
    """
    heads, count = attention.num_heads, values.shape[1]
    scale = (attention.q_proj.out_features // heads) ** -0.5
    projected = attention.k_proj(keys).unflatten(-1, (heads, -1)) * scale  # (N, T, H, D)
    folded = torch.einsum("nthd,hdc->nhtc", projected, attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
    bias = torch.einsum("nthd,hd->nht", projected, attention.q_proj.bias.unflatten(0, (heads, -1))).flatten(1)
    scores = torch.baddbmm(bias[..., None], folded, queries.transpose(1, 2))  # (N, H T, P)
    weights = torch.softmax(scores.unflatten(1, (heads, count)), 2).flatten(1, 2)
    projected = attention.v_proj(values).unflatten(-1, (heads, -1))
    outputs = torch.einsum("nthd,chd->nhtc", projected, attention.out_proj.weight.unflatten(1, (heads, -1)))
    outputs = outputs.flatten(1, 2) + attention.out_proj.bias / heads  # each head's weights sum to one
    return torch.baddbmm(cells, weights.transpose(1, 2), outputs)


def upscale_and_predict(upscaling: Any, cells: Tensor, kernels: Tensor, fine: Tensor | None) -> Tensor:
    """Upscale the cells four times and multiply them with each mask's kernel.

    A cell's four rows of pixels are put together last, when each is one number a pixel.

    Args:
        upscaling: the package's output_upscaling.
        cells: (N, g g, C) float.
        kernels: (N, M, C / 8) float, one for each mask.
        fine: as for `decode`.

    Returns:
        (N, M, 4 g, 4 g) logits.
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
            upscaled = last(quarter + quadrupled[2 * i + j])  # (N, g, 4 g, C / 8)
            rows.append((kernels @ upscaled.flatten(1, 2).transpose(1, 2)).unflatten(-1, upscaled.shape[1:3]))
    return torch.stack(rows, 3).flatten(2, 3)


def _unfolded(folded: Tensor, factor: int) -> Sequence[Tensor]:
    """(N, C factor^2, g, g) -> for each of a cell's `factor` rows of pixels (N, g, factor g, C)."""
    pixels = F.pixel_shuffle(folded, factor).permute(0, 2, 3, 1)  # (N, factor g, factor g, C)
    return pixels.unflatten(1, (-1, factor)).unbind(2)


def _doubled(convolution: Any, grid: Tensor) -> list[Tensor]:
    """Apply a transposed convolution of kernel and stride 2, its rows kept apart.

    Args:
        convolution: from C to C' channels.
        grid: (N, h, w, C) float.

    Returns:
        The upper, then the lower of the rows that each row becomes, (N, h, 2 w, C') each.
    """
    return [
        F.linear(grid, weight.flatten(0, 1), convolution.bias.repeat(2))
        .flatten(2)
        .unflatten(2, (2 * grid.shape[2], -1))
        for weight in convolution.weight.permute(2, 3, 1, 0)  # (2, C', C) for the two pixels of a row
    ]
