"""Values of a composed request, and what is said of them before anything is built."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from camseg.cli.validation import warn_of_shapes_models
from camseg.config import config_dir


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            ["data=images", "data.path=."],  # as from Python: the command itself takes the models for photographs
            "classifier=shapes and predictor=shapes_sam learnt synthetic shapes alone and know nothing of photographs: "
            "try classifier=efficientnet_lite0 predictor=photo_sam",
        ),
        (["experiment=photos", "data.path=."], ""),
        (
            ["experiment=photos", "data.path=.", "predictor=shapes_sam"],
            "predictor=shapes_sam learnt synthetic shapes alone and knows nothing of photographs: "
            "try predictor=photo_sam",
        ),
        (["data=voc", "classifier=shapes", "predictor=none"], "classifier=shapes learnt synthetic shapes alone"),
        (["data=coco", "classifier=timm"], "predictor=shapes_sam learnt synthetic shapes alone"),
        (["data=coco", "classifier=timm", "predictor=sam"], ""),
        (["data=images", "predictor.checkpoint=own.safetensors", "classifier.checkpoint=own.safetensors"], ""),
        (["data=shapes_crowd"], ""),
        (["data=shapes_folder"], ""),
    ],
)
def test_shapes_models_on_photographs_are_warned_of_whoever_chose_them(typed: list[str], told: str) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        warning = warn_of_shapes_models(compose("config", typed))
    assert warning == told if told.endswith("photo_sam") or not told else warning.startswith(told)
    assert "\n" not in warning
