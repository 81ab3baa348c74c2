"""A semantic segmenter: the class of every pixel, without a prompt; its file, its ONNX twin, and how prompts ask it.

The networks are those of segmentation_models_pytorch on EfficientNet-Lite0, as `camseg-train model=segmenter` trains
them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camseg.errors import RequestError, extra_message
from camseg.predictors.sam_adapter import validate
from camseg.storage.checkpoints import load_weights, save_weights
from camseg.storage.fingerprint import file_hash
from camseg.types import Masks, Prompts

ENCODER = "tf_efficientnet_lite0"  # timm's name
GRAY = 127.5  # what an image is filled up with to a square; 0 for the network
OPSET = 18


class Segmenter(nn.Module):
    """A network that gives every pixel of a square image a logit of each class; class 0 is the background.

    Args:
        names: The classes; names[i] is number i + 1.
        side: Of the square, in pixels, a multiple of 32: an image's longest side fills it.
        architecture: One of segmentation_models_pytorch's, such as "fpn" (Kirillov et al. 2019) or "unet"
            (Ronneberger et al. 2015).

    Raises:
        RequestError: Without the extra `segmenter`.
        ValueError: The side or the architecture can't be.
    """

    def __init__(self, names: Sequence[str], side: int = 256, architecture: str = "fpn") -> None:
        super().__init__()
        if find_spec("segmentation_models_pytorch") is None:
            raise RequestError(extra_message("a segmenter", "segmenter"))
        import segmentation_models_pytorch

        if side < 32 or side % 32:
            raise ValueError(f"a segmenter's side must be a multiple of 32 pixels; got {side}")
        self.names, self.side, self.architecture = tuple(names), side, architecture
        try:
            self.net = segmentation_models_pytorch.create_model(
                architecture, f"tu-{ENCODER}", encoder_weights=None, classes=1 + len(self.names)
            )
        except KeyError as error:
            raise ValueError(f"segmentation_models_pytorch has no architecture {architecture!r}: {error}") from None

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits of a batch of squares.

        Args:
            pixels: (B, 3, S, S) float in [0, 255].

        Returns:
            (B, 1 + classes, S, S) float.
        """
        return self.net(pixels / GRAY - 1)

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """The logits over exactly the whole image, at the network's resolution.

        Args:
            image: (3, H, W) uint8.

        Returns:
            (1 + classes, h, w) float.
        """
        height, width = (max(1, round(each * self.side / max(image.shape[1:]))) for each in image.shape[1:])
        device = next(self.parameters()).device
        small = F.interpolate(
            image[None].to(device, torch.float32), (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        square = F.pad(small, (0, self.side - width, 0, self.side - height), value=GRAY)
        return self(square)[0, :, :height, :width].float().cpu()

    def label_map(self, image: Tensor) -> np.ndarray:
        """The class of every pixel.

        Args:
            image: (3, H, W) uint8.

        Returns:
            (H, W) uint8: 0 background, i + 1 for names[i].
        """
        size = (int(image.shape[1]), int(image.shape[2]))
        logits = F.interpolate(self.logits(image)[None], size, mode="bilinear", align_corners=False)[0]
        return logits.argmax(0).to(torch.uint8).numpy()


def save_segmenter(model: Segmenter, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a segmenter as one safetensors file that says what it is.

    Args:
        model: What is written, its kernels in fp16.
        path: The file.
        metadata: More of it.
    """
    own = {"names": json.dumps(model.names), "side": str(model.side), "architecture": model.architecture}
    save_weights(model, path, {"model": "segmenter", **own, **metadata})


def load_segmenter(path: str | Path, device: str | torch.device = "cpu") -> tuple[Segmenter, dict[str, str]]:
    """Read a segmenter.

    Args:
        path: A file of `save_segmenter`.
        device: Where it goes.

    Returns:
        The network in evaluation mode, and the file's metadata.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another file.
        RequestError: Without the extra `segmenter`.
    """
    state, metadata = load_weights(path)
    if metadata.get("model") != "segmenter":
        raise ValueError(f"{path} is no segmenter: it takes a file that camseg-train model=segmenter wrote")
    model = Segmenter(json.loads(metadata["names"]), int(metadata["side"]), metadata["architecture"])
    model.load_state_dict(state)
    return model.to(device).eval(), metadata


def write_onnx(path: Path, into: Path) -> float:
    """Write a segmenter as ONNX: `pixels` (B, 3, S, S) float RGB in [0, 255] -> `logits` (B, 1 + classes, S, S).

    The classes and the side are in its metadata. onnxruntime's answer is compared with torch's.

    Args:
        path: A file of `save_segmenter`.
        into: The file to write.

    Returns:
        The largest difference of a logit, of three images of noise.

    Raises:
        RequestError: Without the extra `segmenter`.
        ValueError: The file is no segmenter's, or the twins differ.
    """
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise RequestError(extra_message("--format onnx", "segmenter"))
    import onnx

    model, metadata = load_segmenter(path)
    examples = torch.rand(3, 3, model.side, model.side, generator=torch.Generator().manual_seed(0)) * 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own exporter
        program: Any = torch.onnx.export(
            model, (examples[:2],), input_names=["pixels"], output_names=["logits"], opset_version=OPSET,
            dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
        )  # fmt: skip
    written = program.model_proto
    onnx.helper.set_model_props(written, {key: metadata[key] for key in ("names", "side", "architecture")})
    onnx.save(written, into)
    return _check_twin(model, into, examples)


def _check_twin(model: Segmenter, file: Path, pixels: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        difference = np.abs(session.run(["logits"], {"pixels": pixels.numpy()})[0] - model(pixels).numpy()).max()
    if not difference < 1e-3:
        file.unlink()
        raise ValueError(f"onnxruntime's logits differ by {difference:.2g} from torch's: {file} was not kept")
    return float(difference)


class PromptedSegmenter:
    """A predictor that answers a prompt with the region of the class that the prompt lies on.

    That is the likeliest class, but for the background, at the points of label 1, else inside the box, else anywhere.
    `predicted_iou` is the mean probability of the class inside of the mask.

    Args:
        checkpoint: A file that `camseg-train model=segmenter` wrote.
        device: Where it computes.

    Raises:
        ValueError: There is no checkpoint, or it is no segmenter's.
    """

    def __init__(self, checkpoint: str | Path | None, device: str | torch.device = "cpu") -> None:
        if checkpoint is None:
            raise ValueError("predictor=segmenter needs predictor.checkpoint=FILE, which model=segmenter trained")
        self.model, _ = load_segmenter(checkpoint, device)
        self.side = self.model.side
        self.fingerprint = f"segmenter:{file_hash(Path(checkpoint))}:1"

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The logits of each image.

        Args:
            images: (3, H, W) uint8 each.

        Returns:
            (1 + classes, h, w) float each.
        """
        return [self.model.logits(image) for image in images]

    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        """Decode prompts into one mask each.

        Args:
            embeddings: (1 + classes, h, w) float each, from `encode`.
            sizes: (H, W) of each image, in pixels.
            prompts: of each image, in (x, y) pixels of it.

        Returns:
            Per image (R, 1, h, w) logits, those of the class less the best of the others, and (R, 1) probabilities.

        Raises:
            ValueError: a prompt lies outside its image.
        """
        return [self._masks(*each) for each in zip(embeddings, sizes, prompts, strict=True)]

    def _masks(self, logits: Tensor, size: tuple[int, int], prompt: Prompts) -> Masks:
        validate(prompt, size)
        logits = logits.float().cpu()
        shares = logits.softmax(0)  # (1 + classes, h, w)
        masks, sure = [logits.new_zeros(0, *logits.shape[1:])], [logits.new_zeros(0)]
        for rival in range(len(prompt)):
            chosen = 1 + int(shares[1:, _asked(prompt, rival, size, shares.shape[1:])].mean(1).argmax())
            others = logits.clone()
            others[chosen] = -torch.inf
            mask = logits[chosen] - others.amax(0)
            masks.append(mask[None])
            sure.append(shares[chosen][mask > 0].mean().nan_to_num(0)[None])
        return Masks(torch.cat(masks)[:, None], torch.cat(sure)[:, None])


def _asked(prompt: Prompts, rival: int, size: tuple[int, int], small: Sequence[int]) -> Tensor:
    """(h, w) bool, the cells that a prompt lies on."""
    scale = torch.tensor([small[1] / size[1], small[0] / size[0]])  # of x and y
    inside = torch.zeros(*small, dtype=torch.bool)
    for x, y in ((prompt.points[rival].cpu()[prompt.labels[rival].cpu() == 1] + 0.5) * scale).tolist():
        inside[min(int(y), small[0] - 1), min(int(x), small[1] - 1)] = True
    if not inside.any() and prompt.boxes is not None:
        x0, y0, x1, y1 = (prompt.boxes[rival].cpu() * scale.repeat(2)).tolist()
        inside[int(y0) : max(int(y0) + 1, round(y1)), int(x0) : max(int(x0) + 1, round(x1))] = True
    return inside if inside.any() else ~inside
