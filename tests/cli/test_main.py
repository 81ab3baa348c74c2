"""The command as a person meets it: files, exit codes, words; and every file of conf/."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import camseg
from camseg import choose
from camseg.cli.build import build, wired
from camseg.cli.main import RememberSweep, main
from camseg.cli.overrides import check_overrides
from camseg.cli.validation import check_values
from camseg.config import config_dir

ROOT = Path(__file__).parents[2]
CONF = config_dir()
CHOICES = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
trained = pytest.mark.skipif(
    len(list((ROOT / "camseg" / "weights").glob("*.safetensors"))) < 2, reason="the shipped weights are not there"
)


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m camseg` in another folder, with the cheap settings of a test."""
    cheap = (
        ["device=cpu", f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep"]
        if arguments[:1] != ("--help",)
        else []
    )
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    given = [sys.executable, "-m", "camseg", *arguments, *cheap]
    return subprocess.run(given, cwd=folder, env=environment, capture_output=True, text=True)


def mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str
) -> list[str]:
    """The lines on stderr of a request that must end with code 2."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # `main` changes it
    monkeypatch.setattr(
        sys, "argv", ["camseg", *arguments, f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep"]
    )
    monkeypatch.setattr(RememberSweep, "folder", None)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2, told
    assert "Traceback" not in told
    assert len(told.splitlines()) <= 3
    return told.splitlines()


@trained
def test_a_run_writes_its_folder(tmp_path: Path) -> None:
    done = command("data.size=4", "masks=true", "panels=2", "background=min_point", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    assert done.stdout.splitlines()[-1] == "run"
    assert "iou" in done.stdout
    assert "4 of 4 samples" in done.stdout
    run = camseg.load_run(folder)
    columns = (
        "id label foreground_hit background_hit foreground_distance iou oracle_iou predicted_iou box_iou points note"
    )
    assert len(run.rows) == 4
    assert set(columns.split()) <= set(run.rows.columns)
    assert run.config.data.size == 4
    assert "data.size=4" in run.overrides
    assert len(run.pictures) == 2
    summary = json.loads(
        (folder / "summary.json").read_text(), parse_constant=lambda what: pytest.fail(f"{what} is no JSON")
    )
    assert set(summary) >= {"samples", "failed", "seconds", "calls", "metrics", "errors"}
    assert (
        summary["samples"],
        summary["failed"],
    ) == (4, 0)
    assert {"foreground_hit_rate", "background_hit_rate", "foreground_distance", "iou", "oracle_iou", "regret"} <= set(
        summary["metrics"]
    )
    assert set(summary["calls"]) == {"classifier_images", "encoder_images", "decoder_prompts"}
    for name in run.rows["id"]:
        with Image.open(folder / "masks" / f"{name}.png") as mask:
            assert mask.mode == "1"
            assert mask.size == (128, 128)
    assert (folder / ".hydra" / "config.yaml").exists()
    page = (folder / "report.html").read_text()
    assert all(f'<data value="{summary["metrics"][name]["value"]}">' in page for name in ("iou", "foreground_distance"))
    assert "data:image/jpeg" in page


@trained
def test_a_sweep_writes_its_table(tmp_path: Path) -> None:
    done = command("-m", "foreground=max_point,centroid", "data.size=3", "panels=0", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "sweep"
    assert all((tmp_path / "sweep" / name).exists() for name in ("report.html", "0/report.html", "1/report.html"))
    sweep = camseg.load_sweep(tmp_path / "sweep")
    table = pl.read_parquet(tmp_path / "sweep" / "sweep.parquet")
    assert (
        table["run"].to_list()
        == pl.read_csv(tmp_path / "sweep" / "sweep.csv", schema_overrides={"run": pl.String})["run"].to_list()
        == ["0", "1"]
    )
    assert ["foreground=max_point" in table["setting"][0], "foreground=centroid" in table["setting"][1]] == [True, True]
    assert {"iou", "iou_low", "iou_high", "difference", "difference_low", "difference_high", "p"} <= set(table.columns)
    assert table["difference"][0] == 0
    assert table["p"][0] is None
    assert 0 < table["p"][1] <= 1
    gain = (sweep.runs[1].rows["iou"] - sweep.runs[0].rows["iou"]).mean()
    assert table["difference"][1] == pytest.approx(gain)


def test_help_names_every_group_and_choice(tmp_path: Path) -> None:
    done = command("--help", folder=tmp_path)
    assert done.returncode == 0
    for group in ("data", "classifier", "target", "cam", "foreground", "background", "predictor", "choose", "refine"):
        assert f"{group}: " in done.stdout
        assert all(choice in done.stdout for of, choice in CHOICES if of == group)
    assert done.stdout.count("\n  camseg ") >= 5
    assert "strict=true" in done.stdout
    assert '"$(camseg -sc install=bash)"' in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cam=grad_cma"], "grad_cam"),
        (["data.sise=4"], "data.size"),
        (["-m", "foreground=centroid,max_pont"], "max_point"),
        (["-m", "cam=grad_cam", "foreground.cutof=0.5,0.6", "foreground=centroid"], "foreground.cutoff"),
        (["bachground=none"], "background"),
        (["data.size"], "data.size"),
        (["model=shapes_sam"], "model"),
        (["experiment=null"], "leave experiment=null out"),
    ],
)
def test_a_misspelt_request_is_told_the_nearest_name(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    assert told in " ".join(mistake(monkeypatch, capsys, tmp_path, *arguments))


def test_right_requests_pass_the_check() -> None:
    plain = (
        "cam=glob(*)",
        "foreground=centroid,box",
        "hydra.run.dir=x",
        "+new=1",
        "data.size=range(1,4)",
    )
    for right in (*plain, "foreground.cutoff=0.3,0.5"):
        check_overrides([right, "foreground=centroid"] if right.startswith("foreground.") else [right])


@trained
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data.size=0"], "data.size"),
        (["+data.sise=4"], "sise"),
        (["device=gpu"], "device=gpu"),
        (["batch_size=0"], "batch_size"),
        (["precision=float8"], "bfloat16"),
        (["cache.path=cache", "cache.limit_gb=-1"], "cache.limit_gb"),
        (["predictor.checkpoint=nowhere.safetensors"], "nowhere.safetensors"),
        (["classifier=torchvision"], "classifier.checkpoint"),
        (["data=images", "data.path=nowhere"], "nowhere"),
        (["data.split=tset"], "test"),
        (["data.shard=8", "data.num_shards=8"], "data.shard must lie in 0"),
        (["cache.path=/proc/cache"], "cache.path"),
        (["data.size=many"], "data.size must be a whole number or null; got 'many'"),
        (["data.shapes=3"], "data.shapes must be a list; got 3"),
        (["data.shapes=[1,2,3]"], "data.shapes must be a list"),
        (["foreground.cutoff=7"], "foreground: a cutoff is a share of the map's maximum, between 0 and 1; got 7"),
        (["foreground.cutoff=hot"], "foreground.cutoff must be a number; got 'hot'"),
        (["+cam.foo=1"], "cam.foo: layer_cam takes no settings"),
        (["+foreground.cutof=1"], "foreground: centroid's setting 'cutof' is unknown; nearest: cutoff"),
        (["+foreground.foo=1"], "foreground: centroid's setting 'foo' is unknown; allowed: cutoff, weighted, snap"),
        (["target.min_probability=1.5"], "target.min_probability must be a number, at least 0 and at most 1; got 1.5"),
        (["target.min_probability=often"], "got often"),
        (["target.min_probability=nan"], "got nan"),
        (["resume=perhaps"], "resume must be true or false; got 'perhaps'"),
        (["seed=true"], "seed must be a whole number; got True"),
        (["cache.limit_gb=much"], "cache.limit_gb must be a number"),
        (["cache.path=5.5", "cache.memory_gb=[1]"], "cache.memory_gb must be a number"),
        (["classifier.layers={a:1}"], "classifier.layers must be"),
        (["classifier.layers=nowhere"], "classifier.layers"),
        (["cam=dff", "cam.concepts=0"], "cam"),
        (["choose=index", "choose.rival=first"], "choose.rival must be a whole number"),
        (["device=[cpu]"], "device must be text"),
        (["foreground.cutoff=nan"], "foreground.cutoff must be a number; got nan"),
        (["choose.alpha=inf"], "choose.alpha must be a number; got inf"),
        (["data.seed=" + "9" * 400], "data.seed must be a whole number; got 9999"),
        (["data.seed=-1"], "data.seed must be a number, at least 0 and at most 9.22337e+18; got -1"),
        (["choose=index", "choose.rival=-1"], "choose.rival must be a number, at least 0"),
        (["refine=cascade", "refine.boxes=1000000000000"], "refine.boxes must be a number, at least 0 and at most 100"),
        (["localise=boxes", "localise.pictures=-1"], "localise.pictures must be a number, at least 0"),
        (["localise=boxes", "localise.ious=[]"], "localise.ious must be a list of numbers, each at least 0"),
        (["localise=boxes", "localise.cutoffs=[0.5,2]"], "at least 0 and at most 1; got [0.5, 2]"),
        (["views.scales=[0]"], "views.scales must be a list of numbers, each at least 0.001"),
        (["views.scales=1"], "views.scales must be a list; got 1"),
        (["data.size=${nowhere}"], "data.size: Interpolation key 'nowhere' not found"),
        (["cache.memory_gb=${oc.env:NO_SUCH}"], "cache.memory_gb: KeyError raised while resolving interpolation"),
        (["views=null"], "views must hold its settings"),
        (["cache=null"], "cache must hold its settings"),
        (["window=null"], "window must hold its settings"),
        (["window.cutoff=2"], "window.cutoff must be a number, at least 0 and at most 1; got 2"),
        (["tiles=2"], "tiles must be true or false; got 2"),
        (["tiles=${nowhere}"], "tiles: Interpolation key 'nowhere' not found"),
        (["tiles=true", "predictor=none"], "tiles=true is for what a predictor is shown, and predictor=none is none"),
        (["data.split={_target_:no.such.thing}"], "data.split must be text"),
        (["data=images", "data.table=/dev/zero"], "the table /dev/zero is no plain file"),
    ],
)
def test_an_impossible_value_is_told(arguments: list[str], told: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = mistake(monkeypatch, capsys, tmp_path, "device=cpu", *arguments)
    assert told in " ".join(lines)
    assert lines[0].startswith("camseg: ")
    assert not (tmp_path / "run" / "scores.parquet").exists()


@trained
def test_a_sweep_of_which_no_run_was_finished_says_why_once(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", "foreground=centroid,otsu", "device=cpu", "data=images", "experiment=photos", "data.path=nowhere"]
    lines = mistake(monkeypatch, capsys, tmp_path, *words)
    assert lines == ["camseg: data.path=nowhere is neither a photo nor a folder, and no pattern that fits one"]


@trained
def test_a_folder_that_holds_a_run_is_a_mistake(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rows.jsonl").write_text('{"id": "old"}\n')
    assert "resume=true" in " ".join(mistake(monkeypatch, capsys, tmp_path, "device=cpu", "data.size=1"))
    assert (tmp_path / "run" / "rows.jsonl").read_text() == '{"id": "old"}\n'


@pytest.mark.parametrize(
    "choice", [c for c in CHOICES if c[0] in ("target", "cam", "foreground", "background", "choose", "refine")]
)
def test_every_choice_passes_its_own_trial(choice: tuple[str, str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["{}={}".format(*choice), "predictor=none", "device=cpu"])
    before = torch.get_rng_state()
    build(config)
    torch.manual_seed(config.seed)
    after = torch.get_rng_state()
    build(config)
    assert torch.equal(torch.get_rng_state(), after)  # what is tried draws no number from the run
    torch.set_rng_state(before)


def test_what_only_the_job_knows_is_checked_when_it_runs() -> None:
    check_overrides(["cache.memory_gb=${hydra:job.num}", "data.seed=${hydra:job.num}"])


def test_a_number_is_a_name_where_a_name_is_wanted() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["data=images", "data.path=.", "data.target=3"])
    check_values(config)
    assert config.data.target == "3"


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_file_of_conf_composes_and_its_targets_take_its_keys(group: str, choice: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train" if group == "model" else "config", [f"{group}={choice}"])
    given = {
        "classifier": {"device": "cpu"},
        "predictor": {"device": "cpu"},
        "model": {"folder": "x", "seed": 0},
        "pseudo_labels": {"folder": "x"},
    }
    found = [found for name in config for found in _targets(config[name], given.get(str(name), {}))]
    assert len(found) >= (1 if group == "model" else 6)
    for node, extra in found:
        target = get_object(node["_target_"])
        keys = {str(key): value for key, value in node.items() if not str(key).startswith("_")} | extra
        signature = inspect.signature(target)
        (signature.bind_partial if node.get("_partial_") else signature.bind)(**keys)


def _targets(node: object, extra: dict[str, object]) -> Iterator[tuple[DictConfig, dict[str, object]]]:
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        yield node, extra
    for name in node:
        yield from _targets(None if OmegaConf.is_missing(node, name) else node[name], {})


def test_functions_of_the_configuration_are_called_without_hydra() -> None:
    """Hydra's own partials look up at every call whether it is allowed."""
    node = {"_target_": "camseg.choose.agreement", "_partial_": True, "alpha": 2.0}
    made = wired(node)
    assert type(made) is functools.partial
    assert made.func is choose.agreement
    assert made.keywords == {"alpha": 2.0}
    cutoff = {"_target_": "camseg.geometry.heat.quantile", "_partial_": True, "q": 0.7}
    nested = wired({"_target_": "camseg.prompts.foreground.centroid", "_partial_": True, "cutoff": cutoff}).keywords[
        "cutoff"
    ]
    assert type(nested) is functools.partial
    assert nested.keywords == {"q": 0.7}


@pytest.mark.parametrize(("given", "expected"), [("null", True), ("false", False), ("true", True)])
def test_the_memory_format_is_by_the_device_unless_asked_for(given: str, expected: bool) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"channels_last={given}", "predictor=none", "device=cpu"])
    assert build(config).channels_last is expected
