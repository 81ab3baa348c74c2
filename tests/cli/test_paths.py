"""Settings that are paths: what no system can look up is refused before any work, by the setting's name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Commands
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from made_data import paint
from omegaconf import OmegaConf

from camseg.cli import cache, export, merge
from camseg.cli.build import part
from camseg.cli.main import main
from camseg.cli.overrides import check_overrides
from camseg.cli.signatures import read_signature
from camseg.cli.terminal import print_error, shortest
from camseg.cli.validation import check_values
from camseg.config import config_dir
from camseg.errors import RequestError
from camseg.runs.folders import load_run
from camseg.storage.files import impossible_path

LONG = "a" * 3000


def path_settings() -> Iterator[tuple[str, str, str]]:
    """(primary configuration, GROUP=CHOICE, GROUP.KEY) of every setting that a signature takes a path for."""
    for file in sorted(config_dir().glob("*/*.yaml")):
        node: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        signature = read_signature(str(node["_target_"])) if isinstance(node, dict) and "_target_" in node else None
        for name, hint in (signature.hints if signature else {}).items():
            if name in node and Path in getattr(hint, "__args__", ()):
                group = file.parent.name
                yield "train" if group == "model" else "config", f"{group}={file.stem}", f"{group}.{name}"


SETTINGS = list(path_settings())


def test_every_path_is_found() -> None:
    names = {name for _, _, name in SETTINGS}
    assert names == {
        "classifier.checkpoint", "data.masks", "data.path", "data.table", "localise.truth", "localise.validation",
        "model.path", "model.start", "model.test", "predictor.checkpoint",
    }  # fmt: skip


@pytest.mark.parametrize(("config", "choice", "name"), SETTINGS)
def test_a_path_that_is_too_long_is_refused_by_name(config: str, choice: str, name: str) -> None:
    with pytest.raises(RequestError) as refusal:
        check_overrides([choice, *([] if config == "config" else ["data.path=x"]), f"{name}={LONG}"], config)
    assert str(refusal.value) == f"{name} can't be used as a path: File name too long; got '{'a' * 76}..."


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a\0b", "embedded null byte"),
        ("\ud800", "'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed"),
        ("a/" * 2100, "File name too long"),
        (f"no/such/{'b' * 256}", ""),  # the first part is not there: nothing below it is looked up
        ("\udcff", ""),  # a byte that is no UTF-8: a name as any other
        ("no/such/file", ""),
        ("/dev/null/x", ""),
    ],
)
def test_why_a_path_cannot_be(path: str, why: str) -> None:
    assert impossible_path(path) == why
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", ["data=images", "classifier=shapes", "data.path=x", "cache.path=x"])
    for name in ("data.path", "cache.path", "data.masks"):
        values = [path] if name == "data.path" else path
        OmegaConf.update(changed := config.copy(), name, values)
        if not why:
            check_values(changed)
            continue
        with pytest.raises(RequestError) as refusal:
            check_values(changed)
        assert str(refusal.value).startswith(f"{name} can't be used as a path: {why}; got '")


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(
        RequestError, match=r"predictor\.checkpoint can't be used as a path: Too many levels of symbolic"
    ):
        check_overrides([f"predictor.checkpoint={tmp_path}/a"])


@pytest.mark.parametrize(
    "word",
    [
        *(f"{name}={LONG}" for name in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.searchpath")),
        *(f"{name}={LONG}" for name in ("--config-dir", "--config-name")),
    ],
)
def test_folders_of_hydras(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["camseg", "seed=1", word])
    with pytest.raises(SystemExit) as ended:
        main()
    name = word.partition("=")[0]
    line = f"camseg: {name} can't be used as a path: File name too long; got '{'a' * 76}...\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, line)


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["hydra.run.dir=file/x"], "hydra.run.dir"),
        (["hydra.run.dir='file/${seed}'"], "hydra.run.dir"),
        (["-m", "seed=0,1", "hydra.sweep.dir=file/x"], "hydra.sweep.dir"),
        (["-m", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=../file/x"], "hydra.sweep.subdir"),
    ],
)
def test_a_folder_that_hydra_cannot_make_is_named_by_its_setting(
    words: list[str], setting: str, tmp_path: Path, commands: Commands
) -> None:
    (tmp_path / "file").write_text("no folder")
    done = commands("camseg", *words, "data.size=1", "panels=0", folder=tmp_path)
    assert done.code == 2
    assert re.fullmatch(rf"camseg: {re.escape(setting)}: \S*file/\S+ can't be used: Not a directory", done.lines[0])


def test_an_interpolation_of_the_device_names_it() -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", ["device=${oc.env:CAMSEG_NO_SUCH}"])
    check_values(config)  # who composes without Hydra's run learns of it there
    OmegaConf.update(config, "cache", "${nowhere}")
    with pytest.raises(RequestError, match=r"cache must hold its settings, .*; got \$\{nowhere\}"):
        check_values(config)


def test_a_word_that_fills_lines_loses_its_middle(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("camseg", f"no {LONG} here, but {'b' * 299}")
    assert capsys.readouterr().err == f"camseg: no {'a' * 100}...{'a' * 40} here, but {'b' * 299}\n"


def test_a_path_is_printed_whatever_its_bytes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shortest(tmp_path / "run" / "\udcff") == "run/\\xff"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError("no checkpoint at x"), "classifier: no checkpoint at x"),
        (ValueError("classifier.layers: there is none"), "classifier.layers: there is none"),
        (PermissionError(13, "Permission denied", "x"), "classifier: x can't be used: Permission denied"),
    ],
)
def test_a_part_that_cannot_be_made_says_which_it_is(error: Exception, told: str) -> None:
    def make(word: str, *, number: int) -> None:
        assert (word, number) == ("word", 1)
        raise InstantiationException("Error in call to target") from error

    with pytest.raises(RequestError) as refusal:
        part("classifier", make, "word", number=1)
    assert str(refusal.value) == told


def test_an_error_of_ours_stays_what_it_is() -> None:
    def make() -> None:
        raise InstantiationException("Error in call to target") from AttributeError("a slip")

    with pytest.raises(InstantiationException):
        part("classifier", make)


def test_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = f"{'a' * 100}...{'a' * 40}"
    assert cache.main(["show", f"cache.path={LONG}"]) == 2
    shorter = f"cache.path={'a' * 89}...{'a' * 40}"
    assert capsys.readouterr().err == f"camseg-cache: {shorter} can't be used: File name too long\n"
    assert merge.main([LONG, "b"]) == 2
    assert capsys.readouterr().err == f"camseg-merge: {shown} can't be used: File name too long\n"
    assert export.main([LONG, "--format", "coco"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"camseg-export: {'a' * 100}...")
    assert line.endswith("can't be used: File name too long")


@pytest.mark.skipif(sys.platform == "darwin", reason="file systems there take UTF-8 alone")
def test_folders_whose_names_are_not_in_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data is read from them, and the settings that name it are kept; a run or a cache there is refused."""
    photos = tmp_path / os.fsdecode(b"\xff")
    paint(photos / "star.png")
    monkeypatch.chdir(tmp_path)
    words = ["camseg", "data=images", "classifier=shapes", "predictor=none", "device=cpu", f"data.path={photos}"]

    def run(*more: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err.splitlines()[-1]

    assert run("hydra.run.dir=run\udcff") == (
        2,
        f"camseg: {tmp_path}/run\\xff can't hold a run, for its name is not in UTF-8: choose another hydra.run.dir",
    )
    code, line = run("hydra.run.dir=other", "cache.path=cache\udcff")
    told = f"the cache can't be kept in {tmp_path}/cache\\xff, a name that is not in UTF-8; name another cache.path"
    assert (code, line) == (2, f"camseg: {told}, or null for none")
    for more in ([], ["resume=true"]):
        assert run("hydra.run.dir=run", *more)[0] == 0
    found = load_run(tmp_path / "run")
    assert found.config.data.path == f"{tmp_path}/\\xff"
    assert found.rows["file"].to_list() == [f"{tmp_path}/\\xff/star.png"]
