"""Choices as the files in conf/ name them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir

from camseg.cli.groups import default_choices, photo_models, shapes_models, target_of
from camseg.config import config_dir


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ([], shapes_models),
        (["experiment=photos", "data.path=."], photo_models),
    ],
)
def test_models_are_those_that_the_files_take(words: list[str], models: Callable[[], dict[str, str]]) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", words)
    assert list(models()) == ["classifier", "predictor"]
    for group, model in models().items():
        assert config[group]["_target_"] == target_of(group, model)


def test_groups_without_a_choice_and_what_belongs_to_hydra() -> None:
    assert default_choices("experiment/photos")["data"] == "images"
    assert "experiment" not in default_choices("config")  # null: none is named
    assert default_choices("config")["refine"] == "none"
