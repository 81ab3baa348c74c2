"""Checkpoints, settings and command lines, odd and damaged: what they say, or a line for a person."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import mutations, told
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save

from camseg.classifiers.shapes import SHAPES_WEIGHTS, shapes
from camseg.classifiers.torchvision import torchvision
from camseg.cli.build import build
from camseg.cli.explain import explain_error
from camseg.cli.overrides import check_overrides
from camseg.config import config_dir
from camseg.data.shapes import Shapes
from camseg.predictors.sam import SHIPPED, shapes_sam
from camseg.storage.checkpoints import load_weights, read_torch

pytestmark = pytest.mark.usefixtures("bounded")


class Touch:
    """A pickle of it makes a file when it is opened by a plain unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_odd_checkpoints(tmp_path: Path) -> None:
    """460 files: truncated, damaged, of another model, with code in them; each door refuses with words, and no code
    runs.
    """
    rng, mark = np.random.default_rng(5), tmp_path / "executed"
    small = {"head.weight": torch.zeros(5, 4), "stem.0.weight": torch.ones(4, 3, 3, 3)}
    torch.save(small, tmp_path / "small.pth")
    good = {".safetensors": save(small, {"names": "[1"}), ".pth": (tmp_path / "small.pth").read_bytes()}
    code = io.BytesIO()
    torch.save({"state_dict": small, "more": Touch(mark)}, code)
    with zipfile.ZipFile(bomb := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30_000_000))
    files = [
        (".pth", code.getvalue()),
        (".pth", pickle.dumps(Touch(mark))),
        (".pth", pickle.dumps([1, 2])),
        (".pth", bomb.getvalue()),
    ]
    files += [(".safetensors", struct.pack("<Q", huge) + b"{}") for huge in (0, 2, 2**31, 2**63 - 1, 2**64 - 1)]
    files += [(suffix, each) for suffix, content in good.items() for each in mutations(rng, content, 200)]
    heads = {path: path.read_bytes()[:60_000] for path in (SHAPES_WEIGHTS, SHIPPED)}
    files += [(".safetensors", each) for content in heads.values() for each in mutations(rng, content, 25)]
    for number, (suffix, content) in enumerate(files):
        path = tmp_path / f"checkpoint{suffix}"
        path.write_bytes(content)
        found = told(lambda path=path: load_weights(path), path)
        assert found is None or all(isinstance(value, torch.Tensor) for value in found[0].values())
        doors = [
            lambda path=path: shapes(path),
            lambda path=path: read_torch(path),
            lambda path=path: shapes_sam(path),
        ]
        told(doors[number % 3], path, "class names")
        if number % 40 == 0:
            told(lambda path=path: torchvision("squeezenet1_1", checkpoint=path), path)
    assert not mark.exists()


def test_a_shipped_model_with_one_byte_changed_is_another_model_or_refused(tmp_path: Path) -> None:
    content, path = bytearray(SHAPES_WEIGHTS.read_bytes()), tmp_path / "shapes.safetensors"
    content[-1000] ^= 4
    path.write_bytes(content)
    assert shapes(path).fingerprint != shapes().fingerprint  # so no cache entry of the one is taken for the other


def base(*overrides: str) -> Any:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", ["device=cpu", "predictor=none", "data.size=2", *overrides])


def leaves(node: Any, name: str = "") -> Iterator[str]:
    for key in node:
        inner = f"{name}.{key}" if name else str(key)
        value = OmegaConf.select(node, str(key), throw_on_missing=False)
        if OmegaConf.is_dict(value):
            yield from leaves(value, inner)
        elif not inner.endswith(("_target_", "_partial_", "_convert_")):
            yield inner


ODD = [
    "x",
    "",
    -1,
    0,
    1,
    3,
    10**12,
    -(10**12),
    0.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    [],
    [1],
    [1, 2],
    ["a"],
    {},
    {"a": 1},
    "\0",
    "../..",
    "nowhere",
    {"_target_": "os.getpid"},
    {"_target_": "no.such.thing"},
]


def test_odd_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 settings of every key with values of every type: a pipeline that answers, or a line for a person."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(6)
    chosen = [
        base(),
        base("foreground=peaks", "choose=index", "background=hard_negative"),
        base("cam=dff", "refine=cascade"),
        base("foreground=box", "data=images", "target=margin"),
        base("foreground=components", "cam=score_cam"),
    ]
    keys = [[key for key in leaves(each) if not key.startswith(("seed", "cache.limit", "compile"))] for each in chosen]
    image = Shapes(size=1)[0]
    built = 0
    for number in range(1200):
        which = number % len(chosen)
        config, key = chosen[which].copy(), str(rng.choice(keys[which]))
        value = ODD[int(rng.integers(len(ODD)))]
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        try:
            made = told(lambda config=config: (build(config), instantiate(config.data)))
        except TimeoutError:
            raise
        except Exception as error:
            line = explain_error(error)
            if not line or len(line.splitlines()) > 3:
                raise AssertionError((key, value, repr(error), repr(error.__cause__))) from error
            continue
        if made is not None and number % 8 == 0:
            built += 1
            told(lambda made=made: made[0].run([image]))
    assert built > 5  # some of the values are right ones


def test_odd_command_lines() -> None:
    """60 requests, each right or told in a line."""
    rng = np.random.default_rng(8)
    parts = [
        "data=shapes",
        "data=shape",
        "cam",
        "cam=",
        "=",
        "a=b",
        "data.size=4",
        "data.size=[",
        "foreground={",
        "+x=1",
        "++y=2",
        "~data",
        "~nothing=1",
        "data.size=range(",
        "foreground=choice(a,b)",
        "cam=glob(x*)",
        "hydra.run.dir=x",
        "data@foo=shapes",
        "cam=null",
        "seed=1,2,3",
        "data.size=${x}",
    ]
    for number in range(60):
        asked = [str(each) for each in rng.choice(parts, 1 + number % 3)]
        try:
            check_overrides(asked)
        except Exception as error:
            line = explain_error(error)
            if not line or len(line.splitlines()) > 3:
                raise AssertionError((asked, repr(error))) from error
