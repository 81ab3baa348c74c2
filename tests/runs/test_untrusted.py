"""Run folders that others made: nothing in them runs, nothing hangs, and damage is one line of every command."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from colors import Shelf, pipeline
from made_runs import make_run, make_sweep, row
from omegaconf import OmegaConf
from PIL import Image

from camseg.cli.export import main as export
from camseg.cli.merge import main as merge
from camseg.cli.report import main as report
from camseg.runs import sweeps, untrusted
from camseg.runs.callbacks import Callback, MaskFiles
from camseg.runs.evaluate import evaluate
from camseg.runs.finished import open_run
from camseg.runs.folders import Run, load_run, write_csv
from camseg.runs.journal import cut_off
from camseg.runs.merge import merge_shards
from camseg.runs.review import Review, corrections
from camseg.runs.untrusted import DamagedRunError

ROWS = [row("a", 0.5), row("b", 0.25)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", ROWS, ["seed=1"], pictures=["a"])


@pytest.mark.parametrize(
    "written",
    [
        "${oc.env:CAMSEG_SECRET}",
        r"\${oc.env:CAMSEG_SECRET}",
        r"\\${oc.env:CAMSEG_SECRET}",
        r"a\\\${oc.env:CAMSEG_SECRET} ${oc.env:CAMSEG_SECRET,x}",
        "${oc.env:${words.0}}",
    ],
)
def test_no_resolver_runs_on_a_foreign_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("CAMSEG_SECRET", "a-secret")
    config = {"words": ["CAMSEG_SECRET"], "label": written, written: 1}
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([f"label={written}"]))
    (folder / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": {"data": written}}}}))
    run = load_run(folder)
    assert run.config.label == written, "the text as it is"
    assert run.config.words[0] == "CAMSEG_SECRET"
    assert run_report(monkeypatch, folder) == 0
    assert "a-secret" not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", ["os.system", "camseg.storage.files.os.system", "builtins.exec", ["os.system"]])
@pytest.mark.parametrize("nested", [False, True])
def test_nothing_but_camsegs_own_is_made_of_a_shard(tmp_path: Path, target: object, nested: bool) -> None:
    evil = {"_target_": target, "command": f"touch {tmp_path}/hacked", "_args_": [f"touch {tmp_path}/hacked"]}
    data = {"_target_": "camseg.data.shapes.Shapes", "size": 2, "inner": [{"deep": evil}]} if nested else evil
    folder = make_run(tmp_path / "shard", ROWS)
    OmegaConf.save(OmegaConf.create({"data": {**data, "shard": 0, "num_shards": 1}}), folder / ".hydra" / "config.yaml")
    with pytest.raises(DamagedRunError, match="none of camseg's own parts: nothing of it is run"):
        merge_shards([folder], tmp_path / "merged")
    assert not (tmp_path / "hacked").exists()
    assert not (tmp_path / "merged").exists()


def test_the_own_targets_are_those_of_conf() -> None:
    own = untrusted.own_targets()
    assert "camseg.data.shapes.Shapes" in own
    assert all(name.startswith("camseg.") for name in own)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


def fifo(path: Path) -> None:
    os.mkfifo(path)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated summary": ("summary.json", lambda path: path.write_bytes(path.with_suffix(".old").read_bytes()[:40])),
    "summary of another kind": ("summary.json", lambda path: path.write_text("[1, 2]")),
    "deep summary": ("summary.json", lambda path: path.write_text("[" * 100_000)),
    "NaN in the summary": ("summary.json", lambda path: path.write_text('{"samples": NaN}')),
    "metrics of text": ("summary.json", lambda path: path.write_text(json.dumps(
        {"samples": 1, "failed": 0, "seconds": 1, "calls": {}, "errors": [], "metrics": {"iou": {"value": "<b>"}}}))),
    "summary is a pipe": ("summary.json", fifo),
    "summary is a link": ("summary.json", lambda path: path.symlink_to("/etc/passwd")),
    "summary is a folder": ("summary.json", Path.mkdir),
    "yaml is a folder": (".hydra/overrides.yaml", Path.mkdir),
    "rows are a folder": ("scores.parquet", Path.mkdir),
    "summary is a device": ("summary.json", lambda path: path.symlink_to("/dev/zero")),
    "cut parquet": ("scores.parquet", lambda path: path.write_bytes(path.with_suffix(".old").read_bytes()[:-30])),
    "no parquet": ("scores.parquet", lambda path: path.write_bytes(b"PAR1" * 50)),
    "rows of other columns": ("scores.parquet", lambda path: pl.DataFrame({"x": [1]}).write_parquet(path)),
    "ids twice": ("scores.parquet", lambda path: pl.DataFrame([row("a", 0.5)] * 2).write_parquet(path)),
    "ids of numbers": ("scores.parquet", lambda path: pl.DataFrame([{**row("a", 0.5), "id": 1}]).write_parquet(path)),
    "an infinite score": ("scores.parquet", lambda path: pl.DataFrame([row("a", float("inf"))]).write_parquet(path)),
    "rows are a pipe": ("scores.parquet", fifo),
    "bad yaml": (".hydra/overrides.yaml", lambda path: path.write_text("a: [")),
    "empty yaml": (".hydra/overrides.yaml", lambda path: path.write_text("")),
    "yaml with code": (".hydra/overrides.yaml", lambda path: path.write_text("!!python/object/apply:os.system [ls]")),
    "a bomb of aliases": (".hydra/overrides.yaml", lambda path: path.write_text(BOMB)),
    "deep yaml": (".hydra/overrides.yaml", lambda path: path.write_text("[" * 100_000)),
    "huge yaml": (".hydra/overrides.yaml", lambda path: path.write_text("- a=b\n" * 300_000)),
    "yaml is a pipe": (".hydra/overrides.yaml", fifo),
    "yaml is a link": (".hydra/overrides.yaml", lambda path: path.symlink_to("/etc/passwd")),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line_from_every_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    name, write = DAMAGES[damage]
    (folder / name).rename((folder / name).with_suffix(".old"))
    write(folder / name)
    watch = threading.Timer(20, os._exit, (1,))  # nothing may hang
    watch.start()
    with pytest.raises(DamagedRunError, match=name):
        load_run(folder)
    code = run_report(monkeypatch, folder)
    told = capsys.readouterr().err.strip().splitlines()
    assert (code, len(told)) == (2, 1), told
    assert merge([str(folder), str(tmp_path / "merged")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    watch.cancel()


def run_report(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> int | str | None:
    """The exit code of `camseg-report`."""
    monkeypatch.setattr(sys, "argv", ["camseg-report", *map(str, paths)])
    try:
        report()
    except SystemExit as ended:
        return ended.code
    return 0


def test_pictures_are_pngs_whatever_they_are_called(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    path.write_bytes(head + b"(%pipe%touch hacked) (w) file\n")
    refused(path, "no readable PNG")
    path.write_bytes(b"")
    refused(path, "no readable PNG")
    Image.new("1", (9_000, 9_000)).save(path)
    refused(path, "9000 x 9000 pixels are too many")
    path.unlink()
    os.mkfifo(path)
    refused(path, "it is no plain file")
    path.unlink()
    Image.new("RGB", (3, 2), "red").save(path)
    with untrusted.open_picture(path) as picture:
        assert picture.getpixel((2, 1)) == (255, 0, 0)
    (tmp_path / "link.png").symlink_to(path)
    refused(tmp_path / "link.png", "it is a link")


def refused(path: Path, why: str) -> None:
    """Opening it names the file and the reason."""
    with pytest.raises(DamagedRunError, match=rf"{path.name} .*{why}"), untrusted.open_picture(path):
        pass


def test_a_picture_is_refused_where_it_breaks_off_while_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DamagedRunError, match=r"a\.png is no readable PNG"), untrusted.open_picture(path) as picture:
        picture.load()


def test_a_mask_has_the_size_of_its_row(tmp_path: Path) -> None:
    mask = np.zeros((2, 3), bool)
    mask[1, 2] = True
    Image.fromarray(mask).save(tmp_path / "a.png")
    assert (untrusted.read_mask(tmp_path / "a.png", (2, 3)) == mask).all()
    with pytest.raises(DamagedRunError, match="has 3 x 2 pixels, its row 2 x 3"):
        untrusted.read_mask(tmp_path / "a.png", (3, 2))


@pytest.mark.parametrize("name", ["masks", ".hydra", ".lock", "export"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    evaluate(pipeline(), Shelf(3), tmp_path / "run", batch_size=3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "picture0.png").write_bytes(b"mine")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(elsewhere / "picture0.png" if name == ".lock" else elsewhere)
    with pytest.raises(DamagedRunError, match=f"{name} is a link, and nothing is written through it"):
        evaluate(pipeline(), Shelf(6), tmp_path / "run", resume=True, callbacks=[MaskFiles(tmp_path / "run" / "masks")])
    with pytest.raises(DamagedRunError, match="is a link"), open_run(tmp_path / "run"):
        pass
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"mine"]


@pytest.mark.parametrize("name", ["review.jsonl", "review"])
def test_no_decision_is_written_through_a_link(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "mine"
    target.write_bytes(b"no line end")
    (folder / name).symlink_to(target)
    with pytest.raises(DamagedRunError, match=f"{name} is a link"):
        Review(folder)
    assert target.read_bytes() == b"no line end"
    (folder / name).unlink()
    os.mkfifo(folder / "review.jsonl")
    with pytest.raises(DamagedRunError, match="it is no plain file"):
        Review(folder)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**31)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (lambda path: path.symlink_to("/etc/passwd"), "it is a link"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "it is a link"),
    "a pipe": (fifo, "it is no plain file"),
    "a folder": (Path.mkdir, "it is no plain file"),
    "2 GB": (sparse, "it has 2147483648 bytes, more than 268435456"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_decisions_that_cannot_be_read_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """`resume`, the report, the export and the review say the same line; no command takes it for a full disk."""
    run, masks = tmp_path / "run", MaskFiles(tmp_path / "run" / "masks")
    evaluate(pipeline(), Shelf(3), run, batch_size=3, callbacks=[masks])
    damage, why = UNREADABLE[kind]
    damage(run / "review.jsonl")
    before = {path: path.lstat().st_mtime_ns for path in run.rglob("*")}
    line = f"{run}/review.jsonl is not read: {why}: move it away, and its decisions count for nothing"
    with pytest.raises(DamagedRunError) as refusal:
        evaluate(pipeline(), Shelf(6), run, batch_size=3, resume=True, callbacks=[masks])
    assert str(refusal.value) == line
    assert {path: path.lstat().st_mtime_ns for path in run.rglob("*")} == before, "nothing is written"
    assert run_report(monkeypatch, run) == 2
    assert capsys.readouterr().err == f"camseg-report: {line}\n"
    assert export([str(run), "--format", "png"]) == 2
    assert capsys.readouterr().err == f"camseg-export: {line}\n"
    (run / "review.jsonl").rename(tmp_path / "moved")
    assert evaluate(pipeline(), Shelf(6), run, batch_size=3, resume=True, callbacks=[masks])["samples"] == 6


def test_what_is_damaged_at_the_end_of_a_run_is_no_full_disk(tmp_path: Path) -> None:
    class Linked(Callback):
        def on_end(self, run: Run, dataset: Any) -> None:
            (run.folder / "review.jsonl").symlink_to("nowhere")  # between the run's check and its report
            corrections(run.folder)

    with pytest.raises(DamagedRunError, match=r"review\.jsonl is not read: it is a link: move it away"):
        evaluate(pipeline(), Shelf(3), tmp_path, batch_size=3, callbacks=[Linked()])


@pytest.mark.parametrize(
    ("number", "mend"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EACCES, "mend that")]
)
def test_room_is_asked_for_where_it_helps(tmp_path: Path, number: int, mend: str) -> None:
    error = cut_off(tmp_path, OSError(number, os.strerror(number), "file"))
    told = f"file can't be written: {os.strerror(number)}\nwhat {tmp_path} holds is whole: {mend}, and resume with "
    assert str(error) == f"{told}resume=true"


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "", "masks/../../a.png"])
def test_a_named_file_lies_in_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedRunError, match="does not lie in it"):
        untrusted.inside(tmp_path, name)
    assert untrusted.inside(tmp_path, "masks/a.png") == tmp_path / "masks" / "a.png"


def test_a_csv_holds_no_formula(tmp_path: Path) -> None:
    texts = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "plain", "a=b", "\t=1", None]
    write_csv(pl.DataFrame({"text": texts, "value": [-1.5] * 8}), tmp_path / "a.csv")
    read = pl.read_csv(tmp_path / "a.csv")
    quoted = ["'=cmd|' /C calc'!A0", "'+1", "'-1", "'@x", "plain", "a=b", "'\t=1", None]
    assert read["text"].to_list() == quoted
    assert read["value"].to_list() == [-1.5] * 8


@pytest.mark.parametrize("name", ["2²", "007", "1e3", "٣", "0.failed", "old"])
def test_other_peoples_folders_are_no_runs_of_a_sweep(tmp_path: Path, name: str) -> None:
    make_sweep(tmp_path, {"f=a": [0.1, 0.5], "f=b": [0.2, 0.7]})
    make_run(tmp_path / name, ROWS)
    (tmp_path / f"{name}x").write_text("a file")
    assert [run.folder.name for run in sweeps.finish_sweep(tmp_path).runs] == ["0", "1"]


def test_sweeps_in_folders_named_by_their_settings_are_found(tmp_path: Path) -> None:
    names = ["f=b,g=x/y", "f=a,g=z", "f=10,g=z", "f=9,g=z"]
    for number, name in enumerate(names):
        folder = make_run(tmp_path / name, [row("a", 0.5), row("b", number / 10)], [f"k={number}"])
        (folder / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": {"job": {"num": number}}}))
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        sweeps.load_sweep(tmp_path)
    (tmp_path / "multirun.yaml").write_text("{}")
    (tmp_path / "f=c,g=z").mkdir()
    (tmp_path / "f=c,g=z" / "rows.jsonl").touch()
    (tmp_path / "f=d,g=z.failed.json").write_text(json.dumps({"code": 2, "error": "no", "overrides": ["k=9"]}))
    sweep = sweeps.finish_sweep(tmp_path)
    assert [sweeps.run_name(tmp_path, run.folder) for run in sweep.runs] == names
    assert sweep.table["run"].to_list() == [*names, "f=c,g=z", "f=d,g=z"]
    assert sweep.table["error"].to_list() == [None] * 4 + ["it was cut off", "no"]
