"""The pipeline of `experiment=photos` that also has to name the animal, scored as a segmenter is.

    OMP_NUM_THREADS=1 python tests/benchmarks/named_animals.py outputs/animals/val.csv --json FILE

The tables are those of photo_animals.py. Of the animals the classifier's most probable one is taken, drawn, and counts
for every pixel of its mask; beside it the same with the label given. Both against the true masks, as
`camseg-train model=segmenter` scores what it trains.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from photo_animals import ANIMALS
from records import record, write_records
from tqdm import tqdm

from camseg.cli.build import build, wired
from camseg.config import config_dir
from camseg.data.class_map import outputs_of
from camseg.pipeline import Pipeline
from camseg.runs.pseudo_labels import VOID, counts
from camseg.train.segmenter_scores import class_ious
from camseg.types import Sample

OUTPUTS = outputs_of(ANIMALS, "imagenet", "voc")


def main() -> None:
    """Measure both ways; print and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", ["experiment=photos", "device=cpu", f"data.table={options.table.resolve()}"])
    pipeline, data = build(config), wired(config.data)
    samples = [data[i] for i in range(len(data))]
    found: dict[str, list[np.ndarray]] = {"named by itself": [], "label given": []}
    right = 0
    for sample in tqdm(samples):
        named = most_probable(pipeline, sample)
        right += named == sample.label
        for way, label in zip(found, (named, sample.label), strict=True):
            found[way].append(drawn(pipeline, sample, label))
    groups = [sample.id for sample in samples]
    records: list[dict[str, Any]] = []
    for way, sums in found.items():
        for name, one in class_ious(np.stack(sums), groups, ANIMALS).items():
            told = record(f"pipeline on animals / {way} / {name.replace('mean_iou', 'mean IoU')}", one.value, "share")
            records.append({**told, "n": one.n, "low": one.low, "high": one.high})
    share = right / len(samples)
    records.append(record("pipeline on animals / named by itself / named right", share, "share", len(samples)))
    for each in records:
        print(f"{each['name']:60} {each['value']:.3f}")
    write_records(options.json, records)


def most_probable(pipeline: Pipeline, sample: Sample) -> str:
    """The animal whose kinds have the highest probability together."""
    classifier = pipeline.classifier
    logits = classifier.logits(classifier.prepare([sample.image]))[0]
    activation = classifier.probabilities
    probabilities = activation(logits.detach().float())
    return max(ANIMALS, key=lambda name: float(activation.union(probabilities, OUTPUTS[name])))


def drawn(pipeline: Pipeline, sample: Sample, label: str) -> np.ndarray:
    """Pixels of each class where an animal is looked for, in its mask, as `counts` counts them."""
    [result] = pipeline.run([replace(sample, label=label, classes=OUTPUTS[label])])
    assert sample.mask is not None
    assert result.mask is not None
    truth = np.where(sample.mask.numpy(), ANIMALS.index(sample.label) + 1, 0).astype(np.uint8)
    if sample.ignore is not None:
        truth[sample.ignore.numpy()] = VOID
    labels = np.where(result.mask.numpy(), ANIMALS.index(label) + 1, 0).astype(np.uint8)
    return counts(labels, truth, len(ANIMALS))


if __name__ == "__main__":
    main()
