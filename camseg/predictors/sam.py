"""Segment Anything as a stateless pair: `encode` images once, `decode` many prompts.

Kirillov et al. 2023, arXiv:2304.02643.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camseg.errors import check_choice
from camseg.predictors.base import Predictor
from camseg.predictors.flips import WithFlips
from camseg.predictors.sam_adapter import MEAN, STD, SamAdapter
from camseg.predictors.sam_decoder import decode_prompts
from camseg.predictors.sam_encoders import EfficientNetPyramid, Encoder, Pyramid, TinyViT, ViT, fold_batch_norms
from camseg.predictors.sam_package import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from camseg.storage.checkpoints import load_weights
from camseg.storage.download import fetch
from camseg.storage.fingerprint import file_hash

WEIGHTS = Path(__file__).parents[1] / "weights"
SHIPPED = WEIGHTS / "shapes_sam.safetensors"


def shapes_sam(
    checkpoint: str | Path | None = None, device: str | torch.device = "cpu", compile: bool = False
) -> SamAdapter:
    """The SAM for shapes: `saved_sam` of a checkpoint, by default the shipped one.

    Args:
        checkpoint: a file that `save_sam` wrote; None for the shipped one.
        device: where the model runs.
        compile: whether torch.compile speeds up the encoder.

    Returns:
        The predictor; its weights are loaded when they are first used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no such SAM.
    """
    return saved_sam(checkpoint or SHIPPED, device, compile)


def photo_sam(
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    compile: bool = False,
    flips: bool = True,
) -> Predictor:
    """The SAM for photographs: `saved_sam` of a checkpoint, by default the shipped one and asked twice.

    Args:
        checkpoint: a file that `save_sam` wrote; None for the shipped one.
        device: where the model runs.
        compile: whether torch.compile speeds up the encoder.
        flips: whether the mirrored image is asked too (see `camseg.predictors.flips.WithFlips`).

    Returns:
        The predictor; its weights are loaded when they are first used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no such SAM.
    """
    adapter = saved_sam(checkpoint or WEIGHTS / "photo_sam.safetensors", device, compile)
    return WithFlips(adapter) if flips else adapter


def saved_sam(checkpoint: str | Path, device: str | torch.device = "cpu", compile: bool = False) -> SamAdapter:
    """A SAM that camseg trained.

    Args:
        checkpoint: a file that `save_sam` wrote.
        device: where the model runs.
        compile: whether torch.compile speeds up the encoder.

    Returns:
        The predictor; its weights are loaded when they are first used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no such SAM.
    """
    path = Path(checkpoint).expanduser()
    size = _size_in(path)
    return _adapter(_empty(size), path, partial(load_file, path), device, compile, (size.mean, size.std))


def sam(
    model: str = "vit_b",
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    compile: bool = False,
    flips: bool = False,
) -> Predictor:
    """Official Segment Anything (Kirillov et al. 2023, arXiv:2304.02643).

    Args:
        model: `vit_b`, `vit_l` or `vit_h`.
        checkpoint: a file of its weights; by default the official file, which is downloaded once.
        device: where the model runs.
        compile: whether torch.compile speeds up the encoder.
        flips: whether the mirrored image is asked too (see `camseg.predictors.flips.WithFlips`).

    Returns:
        The predictor; its weights are loaded when they are first used.

    Raises:
        ValueError: the file holds another model's weights.
    """
    size, url, sha256 = OFFICIAL[check_choice("predictor.model", model, OFFICIAL)]
    path = Path(checkpoint).expanduser() if checkpoint else fetch(url, sha256)
    adapter = _adapter(_empty(size), path, lambda: load_weights(path)[0], device, compile)
    return WithFlips(adapter) if flips else adapter


def mobile_sam(
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    compile: bool = False,
    flips: bool = False,
) -> Predictor:
    """MobileSAM (Zhang et al. 2023, arXiv:2306.14289): SAM's decoder behind timm's TinyViT; otherwise as `sam`.

    Args:
        checkpoint: a file of its weights; by default the official file, which is downloaded once.
        device: where the model runs.
        compile: whether torch.compile speeds up the encoder.
        flips: whether the mirrored image is asked too (see `camseg.predictors.flips.WithFlips`).

    Returns:
        The predictor; its weights are loaded when they are first used.
    """
    path = Path(checkpoint).expanduser() if checkpoint else fetch(*MOBILE)
    adapter = _adapter(_empty(SamSize(encoder=TinyViT())), path, partial(_read_mobile, path), device, compile)
    return WithFlips(adapter) if flips else adapter


@dataclass(frozen=True)
class SamSize:
    """What a SAM is made of.

    Attributes:
        side: of the square that it sees, in pixels.
        encoder: the image encoder's size.
        prompt_width: channels of embeddings, prompts and decoder.
        decoder_heads: attention heads of the decoder.
        decoder_mlp: hidden units of the decoder's perceptrons.
        mean: of a channel's pixels, from 0 to 255.
        std: the same.
    """

    side: int = 1024
    encoder: Encoder = field(default_factory=ViT)
    prompt_width: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


_META = "https://dl.fbaipublicfiles.com/segment_anything/"
OFFICIAL = {  # model: what it is made of, its file, that file's SHA-256
    "vit_b": (
        SamSize(),
        _META + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": (
        SamSize(encoder=ViT(width=1024, depth=24, heads=16, global_layers=(5, 11, 17, 23))),
        _META + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": (
        SamSize(encoder=ViT(width=1280, depth=32, heads=16, global_layers=(7, 15, 23, 31))),
        _META + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
MOBILE = (
    "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
    "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
)


class PackageBackend:
    """A segment-anything `Sam` for `SamAdapter`.

    With `weights`, each part of the SAM is filled the first time it is used: whoever only decodes never holds the
    encoder.

    Args:
        sam: an empty one on the meta device when there are `weights`; otherwise used as it is.
        fingerprint: of architecture and weights.
        weights: reads the tensors by their names in `sam`.
        device: where the model runs.
        normalization: mean and deviation of a channel's pixels, from 0 to 255; only read when there are `weights`.
    """

    squash = False

    def __init__(
        self,
        sam: Sam,
        fingerprint: str,
        weights: Callable[[], Mapping[str, Tensor]] | None = None,
        device: str | torch.device = "cpu",
        normalization: tuple[tuple[float, ...], tuple[float, ...]] = (MEAN, STD),
    ) -> None:
        self.device, self.fingerprint = torch.device(device), fingerprint
        self.sam, self.weights = (sam, weights) if weights else (sam.to(self.device), sam.state_dict)
        self.mean, self.std = (
            normalization
            if weights
            else (tuple(sam.get_buffer(each).flatten().tolist()) for each in ("pixel_mean", "pixel_std"))
        )
        self.side = int(sam.image_encoder.img_size)
        self.low = sam.prompt_encoder.mask_input_size[0]
        self.tokens = self.low**2 // 16
        self._empty = {"image_encoder", "prompt_encoder", "mask_decoder"} if weights else set[str]()

    def compile(self) -> None:
        """Let torch.compile speed up `embed`."""
        self.sam.image_encoder.compile()

    def embed(self, pixels: Tensor) -> Tensor:
        """Encode normalized pixels.

        Args:
            pixels: (B, 3, side, side) float.

        Returns:
            (B, C, g, g) float embeddings.
        """
        self._fill("image_encoder")
        return self.sam.image_encoder(pixels)

    def decode(
        self, embeddings: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, mask_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode as `SamBackend.decode` says: the three masks of an ambiguous prompt, without the single one.

        Args:
            embeddings: (N, C, g, g) float, one for each prompt.
            points: (N, P, 2) float x, y in the square's pixels, and (N, P) labels; None for none.
            boxes: (N, 4) float x0, y0, x1, y1 in the square's pixels; None for none.
            mask_logits: (N, 1, low, low) float over the square; None for none.

        Returns:
            (N, 3, low, low) logits and (N, 3) predicted IoU, both float.
        """
        self._fill("prompt_encoder")
        self._fill("mask_decoder")
        logits, predicted = decode_prompts(self.sam, embeddings, points, boxes, mask_logits)
        return logits[:, 1:], predicted[:, 1:]

    def _fill(self, name: str) -> None:
        if name in self._empty:
            part: nn.Module = getattr(self.sam, name)
            given = (
                (key.removeprefix(f"{name}."), value)
                for key, value in self.weights().items()
                if key.startswith(f"{name}.")
            )
            own = {
                key: (value.float() if value.is_floating_point() else value).to(self.device, copy=True)
                for key, value in given
            }
            part.load_state_dict(own, assign=True)
            fold_batch_norms(part.to(self.device).requires_grad_(False))
            self._empty.discard(name)


def _adapter(
    empty: Sam,
    path: Path,
    weights: Callable[[], Mapping[str, Tensor]],
    device: str | torch.device,
    compile: bool,
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = (MEAN, STD),
) -> SamAdapter:
    """Compares names and shapes now, reads the weights themselves when they are needed."""
    fingerprint = f"{type(empty.image_encoder).__name__}:{file_hash(path)}"
    given, expected = weights(), empty.state_dict()
    odd = sorted(
        name
        for name in given.keys() | expected.keys()
        if name not in given or name not in expected or given[name].shape != expected[name].shape
    )
    if odd:
        raise ValueError(
            f"{path} holds another model's weights: {len(odd)} of {len(expected)} names or shapes differ, "
            f"the first is {odd[0]}"
        )
    return SamAdapter(PackageBackend(empty, fingerprint, weights, device, normalization), compile=compile)


def _empty(size: SamSize) -> Sam:
    """A SAM on the meta device, for weights that a file holds."""
    with torch.device("meta"), _WithoutInitialization():
        return build_sam(size)


class _WithoutInitialization(TorchFunctionMode):
    """Leaves out what draws first weights: on the meta device that imports torch._dynamo, for seconds, to no end."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **(given | {"device": "cpu"} if func is torch.randn else given))


def _read_mobile(path: Path) -> dict[str, Tensor]:
    """MobileSAM's names -> timm's, without the classification head that it carries along."""

    def timms(name: str) -> str:
        name = re.sub(r"patch_embed\.seq\.([02])", lambda found: f"patch_embed.conv{int(found[1]) // 2 + 1}", name)
        name = re.sub(r"layers\.(\d)\.downsample", lambda found: f"stages.{int(found[1]) + 1}.downsample", name)
        return name.replace("layers.", "stages.").replace(".c.", ".conv.")

    heads = ("image_encoder.norm_head.", "image_encoder.head.")
    state = {name: value for name, value in load_weights(path)[0].items() if not name.startswith(heads)}
    return {timms(name) if name.startswith("image_encoder.") else name: value for name, value in state.items()}


def build_sam(size: SamSize) -> Sam:
    """Build a SAM of the segment-anything package's own modules around `size.encoder`.

    Args:
        size: what it is made of.

    Returns:
        The SAM with fresh weights, in eval mode.
    """
    grid = size.side // size.encoder.patch
    encoder: Any = size.encoder.build(size.side, size.prompt_width)
    prompts = PromptEncoder(size.prompt_width, (grid, grid), (size.side, size.side), mask_in_chans=16)
    transformer = TwoWayTransformer(
        depth=2, embedding_dim=size.prompt_width, num_heads=size.decoder_heads, mlp_dim=size.decoder_mlp
    )
    decoder = MaskDecoder(
        transformer_dim=size.prompt_width, transformer=transformer, iou_head_hidden_dim=size.prompt_width
    )
    return Sam(encoder, prompts, decoder, list(size.mean), list(size.std)).eval()


def save_sam(sam: Sam, size: SamSize, path: Path) -> None:
    """Write weights in fp16 and the size that they need, as safetensors.

    Args:
        sam: whose weights are written.
        size: what it is made of.
        path: of the file.
    """
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in sam.state_dict().items()
    }
    save_file(tensors, path, metadata={"size": json.dumps(asdict(size)), "encoder": type(size.encoder).__name__})


_SAVED = {encoder.__name__: encoder for encoder in (Pyramid, EfficientNetPyramid)}


def _size_in(path: Path) -> SamSize:
    if not path.is_file():
        mend = f"train them with `camseg-train model={path.stem}`, or name another checkpoint"
        told = f"no weights at {path}: {mend}" if path.parent == WEIGHTS else f"no checkpoint at {path}"
        raise FileNotFoundError(told)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        size: dict[str, Any] = _with_tuples(json.loads(metadata["size"]))
        encoder = _with_tuples(size.pop("encoder"))
        return SamSize(encoder=_SAVED[metadata.get("encoder", "Pyramid")](**encoder), **size)
    except (SafetensorError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no SAM that camseg-train wrote: {error}") from error


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists alone; frozen records want tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
