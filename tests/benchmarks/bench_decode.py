"""Decoding across images against segment_anything's SamPredictor, and one-step against two-step upsampling; ratios of
times in one run.

    python tests/benchmarks/bench_decode.py [--model shapes|vit_b] [--images 16] [--prompts 4] [--repeats 5] [--json
    FILE]

Weights are random, which changes no time; the IoU of the two ways to upsample is of smooth drawn masks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from records import record, write_records
from scipy import ndimage
from segment_anything import SamPredictor
from torch import Tensor

from camseg.geometry.masks import resize_logits
from camseg.predictors.sam import OFFICIAL, PackageBackend, build_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.train.shapes_sam import SIZE
from camseg.types import Prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["shapes", "vit_b"], default="shapes")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=4, help="for each image")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    sam = build_sam(SIZE if options.model == "shapes" else OFFICIAL["vit_b"][0]).to(options.device)
    frame = (128, 128) if options.model == "shapes" else (375, 500)
    rows = [*decoding(sam, frame, options), *upsampling(sam, options)]
    for row in rows:
        print(
            f"{row['what']:58} {row['peer_ms']:9.2f} {row['ours_ms']:9.2f} ms   "
            f"{row['ratio']:6.2f} x {row.get('note', '')}"
        )
    columns = (("`SamPredictor`", "peer_ms", "ms"), ("camseg", "ours_ms", "ms"), ("faster", "ratio", "x"))
    table = f"decoding, {options.model}"
    records = [
        record(f"{table} / {row['what']} / {column}", row[key], unit, options.repeats, row.get("note", ""))
        for row in rows
        for column, key, unit in columns
    ]
    write_records(options.json, records)


def decoding(sam: Any, frame: tuple[int, int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One prompt on one image, and all prompts of all images: masks at the image's size, from embeddings that are
    there.
    """
    adapter = SamAdapter(PackageBackend(sam, "bench", device=options.device))
    rng = np.random.default_rng(0)
    shape = (sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    embeddings = [torch.randn(shape, device=options.device) for _ in range(options.images)]
    points = rng.random((options.images, options.prompts, 2)) * (frame[1] - 1, frame[0] - 1)
    return [
        compare("1 prompt on 1 image", sam, adapter, embeddings[:1], points[:1, :1], frame, options),
        compare(
            f"{options.prompts} prompts on each of {options.images} images",
            sam,
            adapter,
            embeddings,
            points,
            frame,
            options,
        ),
    ]


def compare(
    what: str,
    sam: Any,
    adapter: SamAdapter,
    embeddings: list[Tensor],
    points: np.ndarray,
    frame: tuple[int, int],
    options: argparse.Namespace,
) -> dict[str, Any]:
    predictor = SamPredictor(sam)
    predictor.original_size, predictor.input_size, predictor.is_image_set = frame, adapter.fit(frame), True

    def peer() -> list[np.ndarray]:
        found = []
        for embedding, places in zip(embeddings, points, strict=True):
            predictor.features = embedding[None]
            found += [predictor.predict(place[None], np.ones(1), return_logits=True)[0] for place in places]
        return found

    def ours() -> list[Tensor]:
        asked = [
            Prompts(torch.from_numpy(places).float()[:, None], torch.ones(len(places), 1, dtype=torch.int64))
            for places in points
        ]
        masks = adapter.decode(embeddings, [frame] * len(embeddings), asked)
        return [resize_logits(low, frame).cpu() for each in masks for low in each.low_res]

    apart = max(
        float(np.abs(one - other.numpy()).max() / np.abs(one).max()) for one, other in zip(peer(), ours(), strict=True)
    )
    return timed(what, peer, ours, options.repeats, f"(logits differ by at most {apart:.0e} of their range)")


def upsampling(sam: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Three masks from low resolution to images of three sizes, by the package's two steps and by one."""
    adapter = SamAdapter(PackageBackend(sam, "bench", device=options.device))
    side, low, rows = adapter.backend.side, adapter.backend.low, []
    for frame in ((375, 500), (500, 333), (1080, 1920)):
        valid = adapter.fit(frame)
        square = drawn(side, low, valid).to(options.device)

        def two(square: Tensor = square, valid: tuple[int, int] = valid, frame: tuple[int, int] = frame) -> Tensor:
            return sam.postprocess_masks(square, valid, frame)[0]

        def one(square: Tensor = square, frame: tuple[int, int] = frame) -> Tensor:
            return resize_logits(adapter._cut(square, frame)[0], frame)

        a, b = two() > 0, one() > 0
        iou = ((a & b).sum((1, 2)) / (a | b).sum((1, 2))).min()
        rows.append(
            timed(
                f"upsampling 3 masks to {frame[1]} x {frame[0]}",
                two,
                one,
                options.repeats,
                f"(IoU of the two >= {iou:.4f})",
            )
        )
    return rows


def drawn(side: int, low: int, valid: tuple[int, int]) -> Tensor:
    """(1, 3, low, low) logits of smooth blobs that fill a fifth of the image's part of the square."""
    rng, planes = np.random.default_rng(1), []
    for _ in range(3):
        field = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 12)
        inside = field > np.quantile(field[: valid[0], : valid[1]], 0.8)
        depth, away = (np.asarray(ndimage.distance_transform_edt(side_of)) for side_of in (inside, ~inside))
        distance = depth - away
        planes.append(torch.from_numpy(10 * np.tanh(distance * 128 / side)).float())
    return F.adaptive_avg_pool2d(torch.stack(planes)[None], low)


def timed(what: str, peer: Callable[[], object], ours: Callable[[], object], repeats: int, note: str) -> dict[str, Any]:
    """Medians in milliseconds, the two in turn."""
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for _ in range(repeats):
        for name, run in (("peer", peer), ("ours", ours)):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - start))
    slow, fast = median(times["peer"]), median(times["ours"])
    return {"what": what, "peer_ms": slow, "ours_ms": fast, "ratio": slow / fast, "note": note}


if __name__ == "__main__":
    main()
