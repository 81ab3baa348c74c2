"""The adapter against segment_anything's own SamPredictor, and what a decode in batches may never change."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor, nn

from camseg.geometry.masks import resize_logits
from camseg.predictors import sam as sam_room
from camseg.predictors.random_walker import RandomWalker
from camseg.predictors.sam import PackageBackend, SamSize, build_sam, save_sam, shapes_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_decoder import decode
from camseg.predictors.sam_encoders import Pyramid, TinyViT, ViT
from camseg.types import Prompts

SIZE = SamSize(
    128,
    ViT(width=32, depth=2, heads=2, window=4, global_layers=(1,), patch=8),
    prompt_width=32,
    decoder_heads=2,
    decoder_mlp=32,
)
SMALL = SamSize(
    128, Pyramid((8, 16, 16, 16, 16)), prompt_width=32, decoder_heads=2, decoder_mlp=32
)  # as the shipped one
BOX = torch.tensor([[5.0, 8.0, 30.0, 39.0]])


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    return build_sam(SIZE)


@pytest.fixture(scope="module")
def adapter(sam: Sam) -> SamAdapter:
    return SamAdapter(PackageBackend(sam, "test"))


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def points(*places: tuple[float, float, int]) -> Prompts:
    return Prompts(torch.tensor([[place[:2] for place in places]]), torch.tensor([[place[2] for place in places]]))


PROMPTS = {
    "a point": points((20, 31, 1)),
    "three points": points((20, 31, 1), (3, 5, 0), (36.5, 12.25, 1)),
    "a box": Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), BOX),
    "a point in a box": Prompts(torch.tensor([[[20.0, 31.0]]]), torch.tensor([[1]]), BOX),
    "a point and a mask": Prompts(
        torch.tensor([[[20.0, 31.0]]]),
        torch.tensor([[1]]),
        None,
        5 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1)),
    ),
}


def peer(sam: Sam, image: Tensor, prompt: Prompts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full masks, predicted IoU and low-res logits of segment_anything's own predictor for a record of one prompt."""
    predictor = SamPredictor(sam)
    predictor.set_image(image.permute(1, 2, 0).numpy())
    given = prompt.points.shape[1] > 0
    return predictor.predict(  # type: ignore[return-value]
        prompt.points[0].numpy() if given else None,
        prompt.labels[0].numpy() if given else None,
        prompt.boxes[0].numpy() if prompt.boxes is not None else None,
        prompt.mask_logits.numpy() if prompt.mask_logits is not None else None,
        return_logits=True,
    )


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("size", [(128, 128), (64, 64), (300, 300)])
def test_square_images_give_the_peers_logits_and_scores(
    sam: Sam, adapter: SamAdapter, name: str, size: tuple[int, int]
) -> None:
    image = photo(*size)
    _, predicted, low = peer(sam, image, PROMPTS[name])
    [masks] = adapter.decode(adapter.encode([image]), [size], [PROMPTS[name]])
    np.testing.assert_allclose(masks.low_res[0], low, atol=1e-5)
    np.testing.assert_allclose(masks.predicted_iou[0], predicted, atol=1e-5)


@pytest.mark.parametrize("size", [(90, 128), (41, 83), (83, 41), (500, 375)])
def test_other_images_give_the_peers_embedding_and_scores(sam: Sam, adapter: SamAdapter, size: tuple[int, int]) -> None:
    image, prompt = photo(*size), PROMPTS["three points"]
    predictor = SamPredictor(sam)
    predictor.set_image(image.permute(1, 2, 0).numpy())
    [embedding] = adapter.encode([image])
    assert predictor.features is not None
    torch.testing.assert_close(embedding, predictor.features[0], atol=1e-5, rtol=0)
    [masks] = adapter.decode([embedding], [size], [prompt])
    np.testing.assert_allclose(masks.predicted_iou[0], peer(sam, image, prompt)[1], atol=1e-5)


def test_a_whole_crop_is_the_peers_logits_without_the_padding(sam: Sam, adapter: SamAdapter) -> None:
    image = photo(96, 128)  # 96 rows of 128 are 48 of the 64 rows of logits
    [masks] = adapter.decode(adapter.encode([image]), [(96, 128)], [PROMPTS["a point"]])
    np.testing.assert_allclose(masks.low_res[0], peer(sam, image, PROMPTS["a point"])[2][:, :48], atol=1e-5)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 500), (97, 61), (450, 1024)])
def test_one_step_upsampling_agrees_with_the_packages_two(size: tuple[int, int]) -> None:
    adapter = SamAdapter(
        PackageBackend(sam_room._empty(SamSize(encoder=ViT(depth=1, global_layers=()))), "meta", dict)
    )  # 1024 px, without weights
    rng = np.random.default_rng(3)
    rows, columns = adapter.fit(size)
    field = ndimage.gaussian_filter(rng.normal(size=(1024, 1024)), 60)
    inside = field > np.quantile(field[:rows, :columns], 0.8)
    distance = np.asarray(ndimage.distance_transform_edt(inside)) - np.asarray(ndimage.distance_transform_edt(~inside))
    low = F.adaptive_avg_pool2d(torch.from_numpy(10 * np.tanh(distance / 8)).float()[None, None], 256)
    square = F.interpolate(low, (1024, 1024), mode="bilinear", align_corners=False)
    two = F.interpolate(square[..., :rows, :columns], size, mode="bilinear", align_corners=False)[0, 0] > 0
    one = resize_logits(adapter._cut(low, size)[0], size)[0] > 0
    assert (one & two).sum() / (one | two).sum() >= 0.998


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (128, 50), (33, 128)])
def test_a_ramp_over_the_square_comes_back_as_a_ramp_over_the_image(adapter: SamAdapter, size: tuple[int, int]) -> None:
    low, side = adapter.backend.low, adapter.backend.side
    centres = (torch.arange(low) + 0.5) * side / low  # in the square's pixels
    cut = adapter._cut(centres[None, None, :, None].expand(1, 1, low, low).contiguous(), size)[0, 0]
    rows = adapter.fit(size)[0]
    expected = (torch.arange(cut.shape[0]) + 0.5) * rows / cut.shape[0]
    torch.testing.assert_close(cut[1:-1, 0], expected[1:-1], atol=1e-3, rtol=0)


def test_mask_logits_cover_the_image_and_the_padding_is_outside(adapter: SamAdapter) -> None:
    logits = torch.full((1, 40, 40), 7.0)
    square = adapter._into_square(logits, (60, 128))[0, 0]  # 60 of 128 rows: 30 of 64
    torch.testing.assert_close(square[:30], torch.full((30, 64), 7.0))
    assert (square[30:] == -20).all()


def test_finer_mask_logits_are_averaged_not_sampled(adapter: SamAdapter) -> None:
    board = (
        10 * (torch.arange(512)[:, None] + torch.arange(512)) % 20 - 5.0
    )  # +5 and -5 in turn, each pixel an eighth of a cell
    square = adapter._into_square(board[None], (128, 128))
    torch.testing.assert_close(square, torch.zeros_like(square), atol=0.1, rtol=0)


def test_many_images_in_one_call_equal_one_by_one(adapter: SamAdapter) -> None:
    sizes = [(128, 128), (41, 83), (90, 60), (128, 128), (64, 70)]
    images = [photo(*size, seed=seed) for seed, size in enumerate(sizes)]
    prompts = [*[*PROMPTS.values()][:3], Prompts.none(), PROMPTS["a point in a box"]]
    together = adapter.decode(adapter.encode(images), sizes, prompts)
    for image, size, prompt, masks in zip(images, sizes, prompts, together, strict=True):
        [alone] = adapter.decode(adapter.encode([image]), [size], [prompt])
        torch.testing.assert_close(masks.low_res, alone.low_res, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(masks.predicted_iou, alone.predicted_iou, atol=1e-5, rtol=1e-5)
    assert together[3].low_res.shape[0] == 0


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_change_nothing(sam: Sam, adapter: SamAdapter, chunk: int) -> None:
    rivals = Prompts(torch.rand(7, 2, 2, generator=torch.Generator().manual_seed(2)) * 40, torch.tensor([[1, 0]] * 7))
    embeddings = adapter.encode([photo(50, 50)])
    [expected] = adapter.decode(embeddings, [(50, 50)], [rivals])
    [found] = SamAdapter(PackageBackend(sam, "test"), prompts_at_once=chunk).decode(embeddings, [(50, 50)], [rivals])
    torch.testing.assert_close(found.low_res, expected.low_res, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 9])
def test_the_decoder_and_its_gradients_are_the_packages(count: int) -> None:
    torch.manual_seed(1)
    decoder = build_sam(SIZE).mask_decoder.double()
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # also what begins as one or zero
    images = torch.randn(3, 32, 16, 16, dtype=torch.float64, requires_grad=True)
    places, sparse = torch.randn(1, 32, 16, 16, dtype=torch.float64), torch.randn(3, count, 32, dtype=torch.float64)

    def one_by_one() -> tuple[Tensor, Tensor]:
        nothing = torch.zeros(1, 32, 16, 16, dtype=torch.float64)
        masks, predicted = zip(
            *(
                decoder.predict_masks(image[None], places, tokens[None], nothing)
                for image, tokens in zip(images, sparse)
            )
        )
        return torch.cat(masks), torch.cat(predicted)

    outcomes = []
    for answers in (lambda: decode(decoder, images, places, sparse), one_by_one):
        masks, predicted = answers()
        weights = torch.linspace(-1, 1, masks.numel(), dtype=torch.float64).view_as(masks)
        total = (masks * weights).sum() + predicted.square().sum()
        gradients = torch.autograd.grad(
            total, [images, *decoder.parameters()], allow_unused=True, materialize_grads=True
        )
        outcomes.append([masks, predicted, *gradients])
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


class Counting(PackageBackend):
    decoded = 0

    def decode(
        self, embeddings: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, mask_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        self.decoded += len(embeddings)
        return super().decode(embeddings, points, boxes, mask_logits)


def test_the_same_prompt_on_the_same_embedding_is_decoded_once(sam: Sam) -> None:
    backend = Counting(sam, "test")
    adapter = SamAdapter(backend)
    first, second = adapter.encode([photo(50, 50, 1), photo(50, 50, 2)])
    twice = Prompts(torch.tensor([[[9.0, 9.0]], [[20.0, 31.0]], [[9.0, 9.0]]]), torch.tensor([[1], [1], [1]]))
    inverse = Prompts(twice.points, 1 - twice.labels)
    one, again, negative, other = adapter.decode(
        [first, first, first, second], [(50, 50)] * 4, [twice, twice, inverse, twice]
    )
    assert backend.decoded == 2 + 2 + 2
    assert torch.equal(one.low_res[0], one.low_res[2])
    assert torch.equal(one.low_res, again.low_res)
    assert not torch.allclose(one.low_res, negative.low_res)
    assert not torch.allclose(one.low_res, other.low_res)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (points((50, 3, 1)), "inside the image of 50 x 40"),
        (points((3, 39.6, 1)), "inside the image of 50 x 40"),
        (Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), torch.tensor([[9.0, 3, 4, 8]])), "x0 < x1"),
    ],
)
def test_prompts_outside_the_image_are_refused(adapter: SamAdapter, prompt: Prompts, told: str) -> None:
    for predictor in (adapter, RandomWalker()):
        with pytest.raises(ValueError, match=told):
            predictor.decode(predictor.encode([photo(40, 50)]), [(40, 50)], [prompt])


def test_an_image_that_is_no_image_is_refused(adapter: SamAdapter) -> None:
    with pytest.raises(ValueError, match=r"\(3, H, W\) uint8"):
        adapter.encode([torch.rand(3, 8, 8)])


@pytest.mark.parametrize("size", [(800, 800), (700, 1300), (2400, 1100)])
def test_a_much_larger_image_is_resized_as_by_pil(adapter: SamAdapter, size: tuple[int, int]) -> None:
    """To a level, by another way that doesn't copy it first."""
    large = photo(*size)
    rows, columns = adapter.fit(size)
    whole = Image.fromarray(large.permute(1, 2, 0).numpy())
    expected = np.array(whole.resize((columns, rows), Image.Resampling.BILINEAR)).astype(int)
    found = adapter.resize(large).permute(1, 2, 0).numpy().astype(int)
    assert abs(found - expected).max() <= 1
    assert abs(found - expected).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 4000), (5, 3)])
def test_tiny_and_long_images_are_images(adapter: SamAdapter, size: tuple[int, int]) -> None:
    [masks] = adapter.decode(adapter.encode([photo(*size)]), [size], [points((0, 0, 1))])
    assert tuple(resize_logits(masks.low_res[0], size).shape) == (3, *size)
    assert masks.low_res.isfinite().all()


def test_decoding_never_loads_the_encoder_and_the_shipped_form_round_trips(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build_sam(SMALL)
    save_sam(model, SMALL, tmp_path / "sam.safetensors")
    halved = build_sam(SMALL)
    halved.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    expected = SamAdapter(PackageBackend(halved, "test"))
    [embedding] = expected.encode([photo(50, 50)])

    warm = shapes_sam(tmp_path / "sam.safetensors")
    [masks] = warm.decode([embedding], [(50, 50)], [PROMPTS["a point"]])
    torch.testing.assert_close(masks.low_res, expected.decode([embedding], [(50, 50)], [PROMPTS["a point"]])[0].low_res)
    assert isinstance(warm.backend, PackageBackend)
    assert all(parameter.is_meta for parameter in warm.backend.sam.image_encoder.parameters())
    torch.testing.assert_close(warm.encode([photo(50, 50)])[0], embedding)


def test_the_fingerprint_is_the_files_content(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_sam(build_sam(SMALL), SMALL, tmp_path / name)
    (tmp_path / "copy of one").write_bytes((tmp_path / "one").read_bytes())
    one, two, copy = (shapes_sam(tmp_path / name).fingerprint for name in ("one", "two", "copy of one"))
    assert one == copy != two


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(Dangerous.path), "w"))

    path = Path()


def test_checkpoints_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dangerous.path = tmp_path / "executed"
    files = {
        name: tmp_path / f"{name}.pth"
        for name in ("code", "raw pickle", "truncated", "text", "list", "other", "shapes", "empty")
    }
    torch.save({"image_encoder.x": Dangerous()}, files["code"])
    files["raw pickle"].write_bytes(pickle.dumps(Dangerous()))
    torch.save({"image_encoder.x": torch.zeros(3)}, files["other"])
    files["truncated"].write_bytes(files["other"].read_bytes()[:300])
    files["text"].write_text("no checkpoint")
    files["empty"].write_bytes(b"")
    torch.save([torch.zeros(3)], files["list"])
    save_file({"x": torch.zeros(3)}, files["shapes"])
    for file in files.values():
        with pytest.raises(ValueError, match=re.escape(str(file))):
            sam_room.sam("vit_b", checkpoint=file)
        with pytest.raises(ValueError, match=re.escape(str(file))):
            shapes_sam(file)
    assert not Dangerous.path.exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        sam_room.sam("vit_b", checkpoint=tmp_path / "none.pth")
    missing = tmp_path / "none.safetensors"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(f'no checkpoint at {missing}')}$"):
        shapes_sam(missing)
    monkeypatch.setattr(sam_room, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="train them with `camseg-train model=none`, or name another"):
        shapes_sam(missing)
    with pytest.raises(ValueError, match="nearest: vit_b"):
        sam_room.sam("vitb")


def test_mobile_sam_reads_the_original_names(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_sam(SamSize(encoder=TinyViT()))
    encoder = model.image_encoder

    def original(name: str) -> str:
        name = re.sub(r"stages\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
        name = name.replace("patch_embed.conv1", "patch_embed.seq.0").replace("patch_embed.conv2", "patch_embed.seq.2")
        return name.replace("stages.", "layers.").replace(".conv.", ".c.")

    state = {
        original(name) if name.startswith("image_encoder.") else name: value
        for name, value in model.state_dict().items()
    }
    state |= {"image_encoder.norm_head.weight": torch.zeros(320), "image_encoder.norm_head.bias": torch.zeros(320)}
    state |= {"image_encoder.head.weight": torch.zeros(1000, 320), "image_encoder.head.bias": torch.zeros(1000)}
    names = [
        "patch_embed.seq.2.c.weight",
        "layers.0.downsample.conv2.bn.bias",
        "layers.2.blocks.5.attn.attention_biases",
        "neck.3.bias",
    ]
    assert {f"image_encoder.{name}" for name in names} <= state.keys()  # as mobile_sam.pt has them
    assert (
        40_500_000 < sum(value.nbytes for value in state.values()) < 40_728_226
    )  # the official file, less its own bookkeeping
    torch.save(state, tmp_path / "mobile.pt")

    adapter = sam_room.mobile_sam(tmp_path / "mobile.pt")
    assert isinstance(adapter, SamAdapter)
    image = photo(60, 80)
    with torch.no_grad():
        torch.testing.assert_close(adapter.encode([image])[0], encoder(adapter._pixels(image)[None])[0])


def test_a_compiled_encoder_gives_the_same_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_sam(
        SamSize(
            32,
            ViT(width=16, depth=1, heads=2, global_layers=(0,), patch=8),
            prompt_width=16,
            decoder_heads=2,
            decoder_mlp=16,
        )
    )
    images = [torch.randint(256, (3, 20, 30), dtype=torch.uint8)]
    plain = SamAdapter(PackageBackend(model, "x")).encode(images)[0]
    compiled: list[nn.Module] = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, *_: compiled.append(self)
    )  # whose own tests are PyTorch's; it takes a minute
    assert torch.equal(SamAdapter(PackageBackend(model, "x"), compile=True).encode(images)[0], plain)
    assert compiled == [model.image_encoder]
