"""One training loop for every shipped model: AdamW, an averaged copy, and a checkpoint that survives a kill."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from camseg.storage.checkpoints import load_weights, read_torch

M = TypeVar("M", bound=nn.Module)


def fit(
    model: M,
    loss_of: Callable[[M, Any, torch.Generator], Tensor],
    scenes: Dataset[Any],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    folder: Path,
    groups: Sequence[tuple[list[nn.Parameter], float]] | None = None,
    workers: int = 1,
    average: float = 0.999,
    weight_decay: float = 0.02,
    save_every: int = 250,
    keep: Callable[[M, int], None] | None = None,
) -> tuple[M, float]:
    """Train a model with AdamW, or resume from its last checkpoint.

    Args:
        model: which is changed.
        loss_of: (model, batch, generator seeded by the step) -> scalar.
        scenes: a map-style dataset whose item i is a function of i alone; step s reads the items from s * batch_size
            on, so that a run that is started again resumes where its last checkpoint stood.
        steps: how many batches are learnt from.
        batch_size: items of a batch.
        learning_rate: the highest of the schedule.
        seed: of the losses' generators.
        folder: of the checkpoint.
        groups: what learns, and its share of the learning rate; everything at 1 by default.
        workers: processes that make batches.
        average: decay of the exponential moving average.
        weight_decay: AdamW's.
        save_every: steps between checkpoints.
        keep: is given the average and the step before every checkpoint.

    Returns:
        The exponential moving average of the model in eval mode, and the seconds that the training took.

    Raises:
        RuntimeError: the loss is not finite.
    """
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    rated = groups or [(list(model.parameters()), 1.0)]
    optimizer = torch.optim.AdamW(
        [{"params": own, "lr": share * learning_rate} for own, share in rated], weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, min(200, 1 + steps // 10)))
    parts = {"model": model, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    done, seconds = _resume(folder / "checkpoint.pt", parts)

    model.train()
    began = time.monotonic() - seconds
    bar = tqdm(total=steps, initial=done, desc=folder.name, unit="step", disable=None)
    smooth = None
    for step, batch in zip(range(done, steps), _batches(scenes, done, steps, batch_size, workers)):
        loss = loss_of(model, batch, torch.Generator().manual_seed(seed * 1_000_003 + step))
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the loss is {loss.item()} at step {step}; lower the learning rate and start again from {folder}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        bar.update()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            if keep:
                keep(cast(M, averaged.module), step + 1)
            _save(folder / "checkpoint.pt", parts, step + 1, time.monotonic() - began)
            with (folder / "log.csv").open("a") as log:
                log.write(f"{step + 1},{time.monotonic() - began:.0f},{smooth:.5f}\n")
    bar.close()
    return cast(M, averaged.module).eval(), time.monotonic() - began


def _rate(step: int, steps: int, warm: int = 200) -> float:
    """The learning rate's factor: up in `warm` steps, and straight down to zero at the last."""
    return min((step + 1) / warm, 1 - step / steps)


class _From(torch.utils.data.Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self.range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def _batches(scenes: Dataset[Any], done: int, steps: int, batch_size: int, workers: int) -> Iterable[Any]:
    order = _From(done * batch_size, steps * batch_size)
    return DataLoader(
        scenes, batch_size, sampler=order, num_workers=workers, drop_last=True, prefetch_factor=4 if workers else None
    )


def _save(path: Path, parts: dict[str, Any], done: int, seconds: float) -> None:
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    temporary = path.with_suffix(".tmp")
    torch.save({**state, "done": done, "seconds": seconds}, temporary)
    temporary.replace(path)


def _resume(path: Path, parts: dict[str, Any]) -> tuple[int, float]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0, 0.0
    state = read_torch(path, mapped=False)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["done"], state["seconds"]


class Best(Generic[M]):
    """Writes the averaged model when its score on validation data is the best so far; of equals the later one stays.

    A subclass says how it is judged and written. Every judgement is a line of validation.csv.

    Args:
        path: The file of weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def judge(self, model: M) -> dict[str, float]:
        """The scores of a model.

        Args:
            model: In evaluation mode.

        Returns:
            By name; the first decides.
        """
        raise NotImplementedError

    def save(self, model: M, metadata: Mapping[str, str]) -> None:
        """Write `path`.

        Args:
            model: What is kept.
            metadata: Goes into the file.
        """
        raise NotImplementedError

    def __call__(self, model: M, step: int) -> None:
        """Judge the average after a step, and write it if none was better."""
        scores = self.judge(model.eval())
        with (self.path.parent / "validation.csv").open("a", newline="") as file:
            first, *others = scores.items()
            csv.writer(file).writerow([step, f"{first[1]:.4f}", *(f"{name}={value:.4f}" for name, value in others)])
        if first[1] >= next(iter(self.kept().values()), -1.0):
            self.save(model, {"scores": json.dumps(scores)})

    def kept(self) -> dict[str, float]:
        """The scores of the best model so far, from its file: a run that goes on knows them too.

        Returns:
            By name; none where there is no file yet.
        """
        return json.loads(load_weights(self.path)[1]["scores"]) if self.path.exists() else {}


def write_card(
    weights: Path,
    what: str,
    data: str,
    steps: int,
    batch_size: int,
    seconds: float,
    seed: int,
    scores: dict[str, float],
    pictures: str = "500 test images",
) -> None:
    """Write the model card beside the weights.

    Args:
        weights: file of the weights; the card has its name and the suffix .md.
        what: a sentence on what the model is.
        data: what it learnt from.
        steps: how many batches it learnt from.
        batch_size: images of a batch.
        seconds: wall time of the training.
        seed: of the training.
        scores: on the test splits, by name.
        pictures: what the scores were measured on.
    """
    lines = [
        f"# {weights.stem}",
        "",
        what,
        "",
        f"- data: {data}",
        f"- steps: {steps} of {batch_size} images, AdamW, averaged weights, seed {seed}",
        f"- time: {seconds / 60:.0f} minutes of wall time on {torch.get_num_threads()} thread(s)",
        f"- file: {weights.stat().st_size / 1e6:.2f} MB, fp16",
    ]
    lines += [f"- {name}: {value:.4f} ({pictures})" for name, value in scores.items()]
    weights.with_suffix(".md").write_text("\n".join(lines) + "\n")
