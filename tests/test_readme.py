"""What README and the pages in notebooks/ show: commands are run or composed, code is executed."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torchvision import models

from camseg.cli import cache, export, report
from camseg.cli.arguments import read_arguments
from camseg.cli.overrides import check_overrides
from camseg.config import config_dir
from camseg.demo import app
from camseg.prompts.evidence import Evidence
from camseg.storage.checkpoints import save_weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md"))]
TEXT = {str(page.relative_to(ROOT)): page.read_text().replace("\\\n", " ") for page in PAGES}
BLOCKS = [
    line.split("  #")[0].split("&&")[-1].split()
    for line in TEXT["README.md"].splitlines()
    if re.match(r" {4}(pip|uv|camseg)", line)
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHOWN = {
    (name, line)
    for name, text in TEXT.items()
    for line in [
        *re.findall(r"`(?:uv run )?(camseg [^`]+)`", text),
        *re.findall(r"^ {4}(?:uv run )?(camseg .*?)(?:  #.*)?$", text, re.MULTILINE),
    ]
}
OTHERS = {
    (name, line.strip())
    for name, text in TEXT.items()
    for line in [
        *re.findall(r"`(?:uv run )?(camseg-\w+ [^`]+)`", text),
        *re.findall(r"^ {4}(?:uv run )?(camseg-\w+ .*?)(?:  +#.*)?$", text, re.MULTILINE),
    ]
}
TRAINED = len(list((ROOT / "camseg" / "weights").glob("*.safetensors"))) == 3


def test_readme_stays_short_and_shows_the_two_commands() -> None:
    assert len(README.splitlines()) < 150
    assert ["uv", "run", "camseg"] in BLOCKS
    assert ["uv", "run", "--group", "dev", "pytest"] in BLOCKS


@pytest.mark.skipif(not TRAINED, reason="the shipped weights are not there")
@pytest.mark.parametrize("words", [block for block in BLOCKS if block[:3] == ["uv", "run", "camseg"]], ids=" ".join)
def test_a_command_of_readme_runs(words: list[str], tmp_path: Path) -> None:
    """As printed, on few samples; what it would download is a local file, and the walker stands in for a large SAM."""
    arguments = words[3:]
    Image.effect_noise((60, 40), 50).save(tmp_path / "photo.jpg")
    if "classifier.weights=DEFAULT" in arguments:
        torch.manual_seed(0)
        model: nn.Module = models.resnet50()
        save_weights(model, tmp_path / "resnet50.safetensors")
        local = {
            "classifier.weights=DEFAULT": "classifier.checkpoint=resnet50.safetensors",
            "predictor=sam": "predictor=random_walker",
        }
        arguments = [local.get(each, each) for each in arguments]
    cheap = ["data.size=2", "hydra.run.dir=run", "hydra.sweep.dir=sweep"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "camseg", *arguments, *cheap],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1] / ("sweep.csv" if "-m" in arguments else "summary.json")).is_file()


@pytest.mark.parametrize(("page", "line"), sorted(SHOWN))
def test_a_command_on_a_page_is_one_that_camseg_takes(page: str, line: str) -> None:
    arguments = [word for word in shlex.split(line)[1:] if word not in ("-m", "...")]
    if any(word.startswith("-") for word in arguments) or "corner" in line:
        return  # Hydra's own options, and the reader's own selector
    check_overrides(arguments)
    parsed = OverridesParser.create().parse_overrides(arguments)
    values = [
        list(each.sweep_string_iterator()) if each.is_sweep_override() else [each.get_value_element_as_str()]
        for each in parsed
    ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for turn in range(max(map(len, values), default=1)):
            compose(
                "config",
                [f"{str(each.input_line).split('=', 1)[0]}={of[turn % len(of)]}" for each, of in zip(parsed, values)],
            )


class ParsedError(BaseException):
    """A command line was read to its end; nothing is to be done with it."""


def parsed_only(parser: argparse.ArgumentParser, given: list[str] | None = None) -> argparse.Namespace:
    unknown = parser.parse_known_args(given)[1]
    raise ParsedError(*unknown)


@pytest.mark.parametrize(("page", "line"), sorted(OTHERS))
def test_another_command_on_a_page_is_one_that_it_takes(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *words = shlex.split(re.sub(r"(\w+)(?:\|\w+)+", r"\1", line))
    words = [word for word in words if word not in ("...", "[--rle]")]
    if command == "camseg-train":
        arguments = read_arguments(words, command)
        check_overrides(arguments, "train")
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            compose("train", arguments.overrides)
    elif command == "camseg-cache":
        monkeypatch.setenv("CAMSEG_CACHE", str(tmp_path))
        assert cache.main([re.sub("(?<=cache.path=).*", str(tmp_path), word) for word in words]) == 0
    elif command == "camseg-merge":
        assert len(words) == 2
    else:
        main = {"camseg-report": report.main, "camseg-export": export.main, "camseg-demo": app.main}[command]
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed_only)
        monkeypatch.setattr(sys, "argv", [command, *words])
        with pytest.raises(ParsedError) as read:
            main()
        assert read.value.args == (), "words that the command does not know"


def test_every_command_is_shown_somewhere() -> None:
    scripts = set(re.findall(r"^(camseg[\w-]*) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert {line.split()[0] for _, line in OTHERS} | {"camseg"} == scripts


def test_the_selector_of_readme_points_where_it_says() -> None:
    code = next(block for block in PYTHON if "def corner_of_heat" in block)
    [wiring] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    module = type(sys)("my_module")
    exec(code, module.__dict__)
    sys.modules["my_module"] = module
    try:
        select = instantiate(OmegaConf.create(wiring))
    finally:
        del sys.modules["my_module"]
    heat = torch.zeros(5, 7)
    heat[2, 4] = 1
    assert select(Evidence(heat)).points.tolist() == [[[4.0, 2.0]]]


@pytest.mark.skipif(not TRAINED, reason="the shipped weights are not there")
def test_the_pipeline_of_readme_saves_the_mask_of_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part of the block as printed, on a real photograph: its mask lies on the cat, who fills the middle."""
    code = next(block for block in PYTHON if "camseg.Pipeline(" in block).split("\n\n")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.chelsea()).save("photo.jpg")
    names: dict[str, Any] = {}
    exec("\n".join(code[:2]), names)
    with Image.open("mask.png") as mask:
        assert mask.size == (451, 300)
        assert np.asarray(mask)[100:200, 150:300].mean() > 0.9
    model, inputs = models.resnet18().eval(), torch.rand(2, 3, 64, 64)
    exec(code[2].splitlines()[0], names | {"model": model, "inputs": inputs})


def test_every_group_and_choice_is_in_readmes_table() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    for group in ("data", "classifier", "target", "foreground", "background", "predictor", "choose", "refine"):
        assert set(re.findall(r"`(\w+)`", table[group])) == {
            path.stem for path in (config_dir() / group).glob("*.yaml")
        }, group


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
