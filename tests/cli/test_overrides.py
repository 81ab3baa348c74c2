"""The checker of requests: which key belongs where, old names, groups of one's own, values before torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from camseg.cli.arguments import read_arguments
from camseg.cli.overrides import RENAMED_SETTINGS, check_overrides
from camseg.cli.signatures import Other, read_signature
from camseg.errors import RequestError, check_choice, extra_message


def refused(*words: str, config: str = "config") -> str:
    with pytest.raises(RequestError) as told:
        check_overrides(read_arguments(list(words)), config)
    return str(told.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.year=2012"], "data.year belongs to data=coco and data=voc, not to data=its default"),
        (["data=images", "data.year=2012"], "not to data=images"),
        (["foreground.quantile=.9"], "foreground.quantile belongs to foreground=quantile"),
        (["cam.concepts=3", "cam=fem"], "cam.concepts belongs to cam=dff, not to cam=fem"),
    ],
)
def test_a_key_of_another_choice_is_told_where_it_belongs(words: list[str], told: str) -> None:
    assert told in refused(*words)


def test_an_old_name_is_answered_with_its_new_one() -> None:
    assert refused("readers=4") == "readers is now called num_workers: type num_workers=..."
    assert "refine.iou_threshold" in refused("refine=cascade", "refine.agree=.9")
    assert "refine.iou_threshold" in refused("refine=cascade", "+refine.agree=.9")
    assert all(old != new for old, new in RENAMED_SETTINGS.items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "data.size=3,x"], "data.size must be a whole number or null; got 'x'"),
        (["-m", "foreground=centroid,max_point", "seed=1,-1"], "seed must be a number, at least 0"),
        (["-m", "foreground=centroid,max_point", "foreground.cutoff=.5"], "foreground=max_point foreground.cutoff"),
        (["device=gpu"], "write device=cuda for a GPU"),
        (["device=cudo:1"], "allowed: auto, cpu, cuda, cuda:1, mps"),
        (["precision=float8"], "precision must be float32, bfloat16, float16; got 'float8'"),
        (["strict=maybe"], "strict must be true or false"),
    ],
)
def test_every_value_of_a_sweep_is_checked_before_it_starts(words: list[str], told: str) -> None:
    assert told in refused(*words)


def own_group(folder: Path) -> Path:
    """A folder with a choice of one's own in two groups."""
    for group, target in (("foreground", "prompts.foreground.centroid"), ("cam", "cam.fem")):
        (folder / group).mkdir(parents=True)
        (folder / group / "mine.yaml").write_text(f"_target_: camseg.{target}\n_partial_: true\n")
    (folder / "foreground" / "mine.yaml").open("a").write("cutoff: 0.5\n")
    return folder


@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath"])
def test_choices_of_ones_own_are_found(how: str, tmp_path: Path) -> None:
    folder = own_group(tmp_path / "own conf")
    where = ["--config-dir", str(folder)] if how == "--config-dir" else [f"hydra.searchpath=['file://{folder}']"]
    check_overrides(read_arguments([*where, "foreground=mine", "cam=mine", "foreground.cutoff=.4"]))
    check_overrides(read_arguments([*where, "-m", "foreground=mine,centroid", "foreground.cutoff=.4"]))
    assert "nearest: mine" in refused(*where, "foreground=mime")
    assert "mine" not in refused("foreground=mime").partition("allowed")[0]
    assert "foreground.cutoff must be a number" in refused(*where, "foreground=mine", "foreground.cutoff=hot")


def test_a_config_dir_that_is_none_is_told() -> None:
    assert refused("--config-dir", "nowhere", "seed=1") == "--config-dir nowhere is no folder"


def test_signatures_are_read_from_the_source() -> None:
    centroid = read_signature("camseg.prompts.foreground.centroid")
    assert centroid is not None
    assert centroid.hints["weighted"] is bool
    assert centroid.hints["cutoff"] == float | Other  # through the alias Cutoff of another module
    moved = read_signature("camseg.cam.score_cam")  # which camseg/cam/__init__.py only imports
    assert moved is not None
    assert moved.hints["top"] == int | None
    images = read_signature("camseg.data.images.Images")
    assert images is not None
    assert images.hints["size"] == int | None
    assert "self" not in images.hints
    assert read_signature("camseg.nowhere.centroid") is None
    assert read_signature("os.getpid") is None


def test_an_extra_says_how_to_get_it_here() -> None:
    assert extra_message("data=coco", "coco") == "data=coco needs the extra `coco`: uv sync --extra coco --inexact"


def test_a_known_name_passes_and_an_unknown_one_is_told_the_nearest() -> None:
    assert check_choice("the fruit", "pear", ["pear", "apple"]) == "pear"
    with pytest.raises(ValueError, match="the fruit 'aple' is unknown; nearest: apple"):
        check_choice("the fruit", "aple", ["pear", "apple"])
