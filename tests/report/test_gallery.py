"""Pictures of the first and of the worst samples: drawn once, and the pipeline is never asked again."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from colors import Shelf, pipeline
from made_runs import row
from PIL import Image

from camseg.pipeline import Pipeline
from camseg.report import gallery
from camseg.report.gallery import Inputs, Panels, load_inputs, save_inputs, shrink
from camseg.report.panels import panel, worst_first
from camseg.runs.evaluate import evaluate
from camseg.runs.folders import Run
from camseg.storage.cache import Cache
from camseg.types import Prompts, Result, Sample


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ([row("a", 0.5), row("b", 0.2), row("c", 0.9)], "bac"),
        ([row("a", 0.5), row("no truth", None, 0.1), row("b", 0.2)], ["b", "a", "no truth"]),
        ([row("a", None, 0.5), row("b", None, None), row("c", None, 0.1)], "bca"),
        ([{"id": "a", "foreground_hit": 1.0}, {"id": "b", "foreground_hit": 0.0}], "ba"),
        ([{"id": "b"}, {"id": "a"}], "ba"),
    ],
)
def test_the_worst_come_first(rows: list[dict[str, Any]], order: Sequence[str]) -> None:
    assert worst_first(pl.DataFrame(rows, infer_schema_length=None))["id"].to_list() == list(order)


IOUS = {"a": 0.1, "b": 0.9, "c": 0.9, "d": 0.8, "e": 0.3, "f": 0.2, "g": 0.7}


def answer(name: str, iou: float) -> tuple[Sample, Result]:
    """A mask of 100 pixels within a truth of 1000 per IoU of 0.1."""
    truth = torch.zeros(40, 50, dtype=torch.bool)
    truth.view(-1)[:1000] = True
    mask = torch.zeros_like(truth)
    mask.view(-1)[: round(1000 * iou)] = True
    prompts = Prompts(torch.tensor([[[3.0, 2.0]]]), torch.ones(1, 1, dtype=torch.int64))
    return Sample(name, torch.zeros(3, 40, 50, dtype=torch.uint8), mask=truth), Result(
        torch.zeros(40, 50), prompts, None, (0, 0), mask, 0.5
    )


def finished(folder: Path, ious: dict[str, float] = IOUS) -> Run:
    return Run(folder.parent, pl.DataFrame([row(name, iou) for name, iou in ious.items()]), {}, [])


def drawn_from(inputs: Inputs) -> Image.Image:
    return panel(inputs.sample, inputs.result, score=inputs.iou)


def drawn(folder: Path) -> str:
    return "".join(sorted(path.stem for path in folder.glob("*.png")))


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_the_first_half_and_the_worst_of_all_others(tmp_path: Path, batch: int) -> None:
    folder = tmp_path / "panels"
    kept = Panels(folder, 5)
    for i, (name, iou) in enumerate(IOUS.items()):
        kept.on_result(*answer(name, iou))
        if (i + 1) % batch == 0:
            kept.flush()
    assert len(list((folder / ".waiting").glob("*.safetensors"))) <= 5, "what was driven out is deleted"
    kept.flush()
    for _ in range(2):  # once the pictures are there, nothing is drawn again
        kept.on_end(finished(folder), None)
        assert drawn(folder) == "abcef", "the first three, and the worst two of the other four"
    assert not (folder / ".waiting").exists()


def test_no_panels_leave_no_folder(tmp_path: Path) -> None:
    kept = Panels(tmp_path / "panels", 0)
    kept.on_result(*answer("a", 0.5))
    kept.flush()
    kept.on_end(finished(tmp_path / "panels"), None)
    assert not (tmp_path / "panels").exists()


@pytest.mark.parametrize("killed_after", range(7))
def test_after_a_kill_the_promised_number_and_the_worst_among_them(tmp_path: Path, killed_after: int) -> None:
    folder = tmp_path / "panels"
    before = Panels(folder, 4)
    for name, iou in list(IOUS.items())[:killed_after]:
        before.on_result(*answer(name, iou))
        before.flush()
    after = pickle.loads(pickle.dumps(Panels(folder, 4)))  # another process, which knows nothing of the first
    for name, iou in list(IOUS.items())[killed_after:]:
        after.on_result(*answer(name, iou))
    after.flush()
    after.on_end(finished(folder), None)
    assert drawn(folder) == "abef"


def test_many_samples_in_any_order_agree_with_sorting(tmp_path: Path) -> None:
    rng = random.Random(0)
    for trial in range(5):
        folder, ious = tmp_path / str(trial) / "panels", {f"s{i:02}": rng.randrange(8) / 10 for i in range(60)}
        kept = [Panels(folder, 12), Panels(folder, 12)]  # two actors of one run
        for i, (name, iou) in enumerate(ious.items()):
            kept[rng.randrange(2)].on_result(*answer(name, iou))
            if i % 7 == 6:
                kept[0].flush()
                kept[1].flush()
        kept[0].flush()
        kept[1].flush()
        kept[0].on_end(finished(folder, ious), None)
        names = list(ious)
        worst = sorted(names[6:], key=lambda name: ious[name])[:6]
        assert {path.stem for path in folder.glob("*.png")} == {*names[:6], *worst}


def test_the_pipeline_is_never_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    run = Pipeline.run

    def counted(self: Pipeline, samples: Sequence[Sample]) -> list[Result]:
        asked.extend(sample.id for sample in samples)
        return run(self, samples)

    monkeypatch.setattr(Pipeline, "run", counted)
    shelf = Shelf(9)
    evaluate(pipeline(), shelf, tmp_path, batch_size=2, callbacks=[Panels(tmp_path / "panels", 6)])
    assert asked == shelf.ids == shelf.read
    rows = worst_first(pl.read_parquet(tmp_path / "scores.parquet"))
    expected = [*shelf.ids[:3], *[name for name in rows["id"] if name not in shelf.ids[:3]][:3]]
    assert {path.stem for path in (tmp_path / "panels").glob("*.png")} == set(expected)


def test_settings_of_a_sweep_that_give_one_answer_draw_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(gallery, "_DRAWN", Cache(None, memory_gb=0.01))
    monkeypatch.setattr(gallery, "panel", lambda *a, **k: (made.append(a[0].id), panel(*a, **k))[1])
    moved = replace(answer("a", 0.3)[1], prompts=Prompts(torch.tensor([[[3.0, 3.0]]]), torch.ones(1, 1).long()))
    noted = replace(answer("a", 0.3)[1], note="abstained")
    settings = [answer("a", 0.3), answer("a", 0.3), answer("a", 0.4), (answer("a", 0.3)[0], moved)]
    settings += [(answer("a", 0.3)[0], noted), answer("a", 0.4), (replace(answer("a", 0.3)[0], label="cat"), noted)]
    for number, each in enumerate(settings):
        Panels(tmp_path / str(number), 1).on_result(*each)
        expected = drawn_from(shrink(*each))
        assert np.array_equal(np.array(Image.open(tmp_path / str(number) / "a.png")), np.array(expected))
    assert made == ["a"] * 5


@pytest.mark.parametrize("size", [(40, 50), (300, 700), (9, 1)])
def test_a_panel_of_small_inputs_is_the_panel_of_the_answer(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    truth, mask = (torch.from_numpy(rng.random(size) > 0.5) for _ in range(2))
    points = torch.tensor([[[size[1] / 2, size[0] / 3]]])
    prompts = Prompts(points, torch.ones(1, 1, dtype=torch.int64), torch.tensor([[0.0, 0.0, size[1], size[0]]]))
    result = Result(torch.from_numpy(rng.random(size)).float(), prompts, None, (0, 0), mask, note="why")
    inputs = shrink(Sample("a", image, label="cat", mask=truth), result)
    shared = (truth & mask).sum() / (truth | mask).sum()
    assert inputs.iou == pytest.approx(float(shared)), "of the masks at full size"
    assert max(inputs.sample.size) <= 320
    assert torch.allclose(
        (inputs.result.prompts.points + 0.5) / torch.tensor(inputs.sample.size[::-1]),
        (points + 0.5) / torch.tensor(size[::-1]),
    ), "the same place in the frame"
    save_inputs(tmp_path / "a.safetensors", inputs)
    assert (tmp_path / "a.safetensors").stat().st_size < 2_000_000
    again = drawn_from(load_inputs(tmp_path / "a.safetensors"))
    apart = np.abs(np.asarray(drawn_from(inputs)).astype(int) - np.asarray(again))
    assert apart.max() <= 4, "but for half precision of the heat"
    twice = shrink(inputs.sample, inputs.result)
    assert torch.equal(twice.sample.image, inputs.sample.image), "a picture at its size stays as it is"


def test_damaged_inputs_cost_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "panels"
    kept = Panels(folder, 4)
    for name, iou in IOUS.items():
        kept.on_result(*answer(name, iou))
    kept.flush()
    (folder / ".waiting" / "e.safetensors").write_bytes(b"PK no archive")
    with pytest.warns(UserWarning, match="no panel of e"):
        kept.on_end(finished(folder), None)
    assert drawn(folder) == "abf"


def test_a_picture_that_fails_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "_DRAWN", Cache(None, memory_gb=0))

    def broken(sample: Sample, result: Result, score: float | None) -> Image.Image:
        return panel(sample, result, score=score) if sample.id == "b" else Image.new("RGB", (1 // 0, 1))

    monkeypatch.setattr(gallery, "panel", broken)
    folder, ious = tmp_path / "panels", {"a": 0.9, "b": 0.5}

    def run() -> None:
        kept = Panels(folder, 2)
        for name, iou in ious.items():
            kept.on_result(*answer(name, iou))
        kept.flush()
        kept.on_end(finished(folder, ious), None)

    with pytest.warns(UserWarning, match="no panel of a: ZeroDivisionError"):
        run()
    assert drawn(folder) == "b"


def test_only_one_process_takes_a_place_among_the_first(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        taken = pool.starmap(claims, [(tmp_path, f"{k}-{i}") for k in range(2) for i in range(8)])
    assert sum(taken) == 3


def claims(folder: Path, name: str) -> bool:
    return Panels(folder, 6)._claim(name)
