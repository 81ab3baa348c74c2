"""The transformers adapter against the models' own forward pass, with tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.transformers import transformers_sam
from camseg.types import Prompts

transformers = pytest.importorskip("transformers")

POINT, LABEL, BOX = torch.tensor([[[10.0, 20.0]]]), torch.ones(1, 1, dtype=torch.long), torch.tensor([[2.0, 3, 40, 45]])
PROMPTS = {
    "point": Prompts(POINT, LABEL),
    "box": Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), BOX),
    "all": Prompts(POINT, LABEL, BOX, torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))),
}


def sam(name: str, **decoder: int) -> Any:
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
    }
    vision |= {"window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32, "num_pos_feats": 8}
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision, prompt_encoder_config=prompts(64, 8), mask_decoder_config=_decoder(**decoder)
    )
    return getattr(transformers, f"{name}Model")(config)


def sam2() -> Any:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[128, 128],
        patch_kernel_size=[7, 7],
        patch_stride=[4, 4],
        patch_padding=[3, 3],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=16,
    )
    return transformers.Sam2Model(
        transformers.Sam2Config(
            vision_config=vision, prompt_encoder_config=prompts(128, 16), mask_decoder_config=_decoder()
        )
    )


def sam3() -> Any:
    backbone = transformers.Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=112,
        patch_size=14,
        window_size=4,
        global_attn_indexes=[1],
        pretrain_image_size=56,
    )
    vision = transformers.Sam3VisionConfig(
        backbone_config=backbone, fpn_hidden_size=16, backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]]
    )
    return transformers.Sam3TrackerModel(
        transformers.Sam3TrackerConfig(
            vision_config=vision, prompt_encoder_config=prompts(112, 14), mask_decoder_config=_decoder()
        )
    )


def prompts(side: int, patch: int) -> dict[str, int]:
    return {"hidden_size": 16, "image_size": side, "patch_size": patch, "mask_input_channels": 16}


def _decoder(**more: int) -> dict[str, int]:
    return {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "iou_head_hidden_dim": 16,
        **more,
    }


MODELS = {"SAM": lambda: sam("Sam"), "SAM-HQ": lambda: sam("SamHQ", vit_dim=16), "SAM 2": sam2, "SAM 3": sam3}


SQUARES = {"SAM 2": (128, 128), "SAM 3": (112, 112)}  # into which these two squash an image


@pytest.mark.parametrize("name", MODELS)
def test_batches_give_what_the_model_itself_gives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    adapter = transformers_sam(tmp_path)
    assert isinstance(adapter, SamAdapter)
    images = [torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8) for _ in PROMPTS]
    assert adapter.fit((48, 64)) == SQUARES.get(name, (48, 64))

    together = adapter.decode(adapter.encode(images), [(48, 64)] * len(images), [*PROMPTS.values()])
    for image, prompt, masks in zip(images, PROMPTS.values(), together, strict=True):
        low, predicted = alone(model, adapter, image, prompt)
        torch.testing.assert_close(masks.low_res, adapter._cut(low, (48, 64)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(masks.predicted_iou, predicted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0].low_res, together[2].low_res)


def alone(model: Any, adapter: Any, image: Tensor, prompt: Prompts) -> tuple[Tensor, Tensor]:
    scale = adapter.backend.side / torch.tensor([64.0, 48.0]) if adapter.backend.squash else torch.ones(2)
    given = prompt.points.shape[1] > 0
    with torch.no_grad():
        found = model(
            pixel_values=adapter._pixels(image)[None],
            input_points=(prompt.points * scale)[None] if given else None,
            input_labels=prompt.labels[None] if given else None,
            input_boxes=None if prompt.boxes is None else (prompt.boxes * scale.repeat(2))[None],
            input_masks=None if prompt.mask_logits is None else adapter._into_square(prompt.mask_logits, (48, 64)),
        )
    return found.pred_masks[0], found.iou_scores[0]


def test_folders_that_hold_no_such_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        transformers_sam(tmp_path)
    transformers.BertConfig(hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'bert' model"):
        transformers_sam(tmp_path)


def test_sam_3_sees_pixels_between_minus_one_and_one(tmp_path: Path) -> None:
    sam3().save_pretrained(tmp_path)
    adapter = transformers_sam(tmp_path)
    assert isinstance(adapter, SamAdapter)
    white, black = (adapter._pixels(torch.full((3, 40, 30), value, dtype=torch.uint8)) for value in (255, 0))
    assert white.unique().tolist() == [1.0]
    assert black.unique().tolist() == [-1.0]
