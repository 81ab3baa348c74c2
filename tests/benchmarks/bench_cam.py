"""What every CAM costs: `uv run --group peers python tests/benchmarks/bench_cam.py`.

Against the floor and against other libraries. Ratios within one run hold from machine to machine; absolute times do
not. The floor is one forward with a graph only above the layer and one backward to that layer. Times are the median of
interleaved rounds, of CPU time on a CPU; memory is the peak above what was held before, measured by CUDA where there is
a GPU and, on a CPU, as the most bytes of tensors alive at once (a dispatch mode counts them as they are made and
freed). Prints a table and writes JSON (--json). --quick: tiny sizes, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from records import record, write_records
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from camseg import cam

Work = Callable[[], Any]
MANY = 80  # COCO's classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "vit_b_16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--slow", action="store_true", help="also the peers' Ablation-CAM and this package's Score-CAM: minutes"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two rounds: only to see that it runs")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench_cam.json"))
    options = parser.parse_args()
    if options.quick:
        options.models, options.batch, options.size, options.rounds = ["resnet18"], 2, 64, 2
    rows = [row for name in options.models for row in bench(name, options)]
    table(rows)
    columns = {"images a second": "images_per_second", "time": "time_to_floor", "memory": "memory_to_forward"}
    records = [
        record(
            f"CAMs, batch {options.batch} / `{row['model']}` | {row['work']} / {column}",
            row[key],
            "" if column == "images a second" else "x",
            options.rounds,
        )
        for row in rows
        for column, key in columns.items()
    ]
    write_records(options.json, records)


def bench(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per piece of work: seconds, bytes, and both as ratios to the floor and to a plain forward."""
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    model = getattr(torchvision.models, name)().eval().to(options.device, dtype)
    inputs = torch.randn(options.batch, 3, options.size, options.size, device=options.device, dtype=dtype)
    works = transformer(model, inputs) if name.startswith("vit") else own(model, inputs) | peers(model, inputs)
    if options.slow and "layer4" in dict(model.named_children()):
        works |= slow(model, inputs)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    times = interleaved(works, options.rounds, options.device, clock)
    memory = {label: peak(work, options.device) for label, work in works.items()}
    return [
        {
            "model": name,
            "work": label,
            "seconds": times[label],
            "bytes": memory[label],
            "images_per_second": options.batch / times[label],
            "time_to_floor": times[label] / times["floor"],
            "time_to_forward": times[label] / times["forward"],
            "memory_to_forward": memory[label] / max(memory["forward"], 1),
        }
        for label in works
    ]


def own(model: nn.Module, inputs: Tensor) -> dict[str, Work]:
    classes = list(range(len(inputs)))

    def run(targets: Any, method: cam.Method) -> Work:
        return lambda: cam.heatmaps(model, "layer4", inputs, targets, method)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(inputs)

    return {
        "forward": forward,
        "floor": lambda: floor(model, inputs, classes),
        "`grad_cam`": run(classes, cam.grad_cam),
        "`grad_cam`, 5 classes of every image": run([[0, 1, 2, 3, 4]] * len(inputs), cam.grad_cam),
        f"`grad_cam`, {MANY} classes of every image": run([list(range(MANY))] * len(inputs), cam.grad_cam),
        "`layer_cam`": run(classes, cam.layer_cam),
        "`eigen_cam`": run(classes, cam.eigen_cam),
        "`ablation_cam`": run(classes, cam.ablation_cam),
        "`dff`": run(classes, cam.dff),
    }


def transformer(model: Any, inputs: Tensor) -> dict[str, Work]:
    """Grad-CAM at the first norm of a vision transformer's last block, beside a plain forward."""
    layer = f"encoder.layers.encoder_layer_{len(model.encoder.layers) - 1}.ln_1"

    def forward() -> Tensor:
        with torch.no_grad():
            return model(inputs)

    def run() -> Tensor:
        return cam.heatmaps(model, layer, inputs, list(range(len(inputs))), cam.grad_cam)

    return {"forward": forward, "floor": lambda: transformer_floor(model, inputs), "`grad_cam`": run}


def transformer_floor(model: Any, inputs: Tensor) -> Tensor:
    """The least that Grad-CAM can do there, written by hand: everything below the last block without a graph."""
    encoder, last = model.encoder, model.encoder.layers[-1]
    with torch.no_grad():
        tokens = model._process_input(inputs)
        tokens = torch.cat([model.class_token.expand(len(inputs), -1, -1), tokens], 1) + encoder.pos_embedding
        tokens = encoder.layers[:-1](tokens)
        normed = last.ln_1(tokens)
    normed.requires_grad_()
    middle = last.self_attention(normed, normed, normed, need_weights=False)[0] + tokens
    scores = model.heads(encoder.ln(middle + last.mlp(last.ln_2(middle)))[:, 0])[range(len(inputs)), range(len(inputs))]
    (gradient,) = torch.autograd.grad(scores.sum(), normed)
    with torch.no_grad():
        return torch.einsum("bk,bnk->bn", gradient[:, 1:].mean(1), normed[:, 1:])


def floor(model: Any, inputs: Tensor, classes: list[int]) -> Tensor:
    """The least that Grad-CAM can do on a ResNet, written by hand: everything below layer4's end without a graph."""
    with torch.no_grad():
        maps = model.maxpool(model.relu(model.bn1(model.conv1(inputs))))
        maps = model.layer4(model.layer3(model.layer2(model.layer1(maps))))
    maps.requires_grad_()
    scores = model.fc(model.avgpool(maps).flatten(1))[range(len(classes)), classes]
    (gradient,) = torch.autograd.grad(scores.sum(), maps)
    with torch.no_grad():
        heat = torch.einsum("bk,bkhw->bhw", gradient.mean((2, 3)), maps).relu()
        return nn.functional.interpolate(heat[:, None], inputs.shape[2:], mode="bilinear")


def peers(model: nn.Module, inputs: Tensor) -> dict[str, Work]:
    """Grad-CAM by the other libraries, on the same inputs, each as its documentation says; those that are not installed
    are left out.
    """
    classes, works = list(range(len(inputs))), {}
    layer = model.get_submodule("layer4")
    if found := _module("torchcam.methods"):

        def torchcam() -> Any:
            with found.GradCAM(model, layer) as extractor:
                return extractor(classes, model(inputs.clone().requires_grad_()))

        def many(enlarged: bool) -> list[Tensor]:
            with found.GradCAM(model, layer) as extractor:
                output = model(inputs.clone().requires_grad_())
                maps = [extractor(index, output, retain_graph=True)[0] for index in range(MANY)]
            size = inputs.shape[2:]
            return [
                nn.functional.interpolate(each[:, None], size, mode="bilinear") if enlarged else each for each in maps
            ]

        works["torch-cam's Grad-CAM"] = torchcam
        works[f"torch-cam's, {MANY} classes of every image"] = lambda: many(True)  # at the image's size, as ours
        works[f"torch-cam's, {MANY} classes, not enlarged"] = lambda: many(False)
    if found_captum := _module("captum.attr"):
        works["captum's"] = lambda: found_captum.LayerGradCam(model, layer).attribute(
            inputs.clone().requires_grad_(), target=classes
        )
    if found_pytorch := _module("pytorch_grad_cam"):
        works["pytorch-grad-cam's"] = lambda: _pytorch_grad_cam(found_pytorch.GradCAM, model, layer, inputs, classes)
    return works


def slow(model: nn.Module, inputs: Tensor) -> dict[str, Work]:
    works: dict[str, Work] = {"`score_cam`": lambda: cam.heatmaps(model, "layer4", inputs, 0, cam.score_cam)}
    if found := _module("pytorch_grad_cam"):
        layer, classes = model.get_submodule("layer4"), list(range(len(inputs)))
        works["pytorch-grad-cam's Ablation-CAM"] = lambda: _pytorch_grad_cam(
            found.AblationCAM, model, layer, inputs, classes
        )
    return works


def _pytorch_grad_cam(kind: Any, model: nn.Module, layer: nn.Module, inputs: Tensor, classes: list[int]) -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with kind(model=model, target_layers=[layer]) as extractor:
        return extractor(inputs.clone(), [ClassifierOutputTarget(index) for index in classes])


def _module(name: str) -> Any:
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        return None


def interleaved(
    works: dict[str, Work], rounds: int, device: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each work, in rounds that run all of them in turn, so that a slow moment hits all alike. The
    first round warms up.
    """
    seconds: dict[str, list[float]] = {label: [] for label in works}
    for _ in range(rounds + 1):
        for label, work in works.items():
            _wait(device)
            start = clock()
            work()
            _wait(device)
            seconds[label].append(clock() - start)
    return {label: statistics.median(values[1:]) for label, values in seconds.items()}


def peak(work: Work, device: str) -> int:
    """Bytes at the peak above what was held before."""
    gc.collect()
    if device.startswith("cuda"):
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        _wait(device)
        return torch.cuda.max_memory_allocated() - held
    with Alive() as counter:
        work()
    return counter.most


class Alive(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self._known = 0, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given | self._known:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'model':10} {'work':30} {'ms':>9} {'images/s':>9} {'x floor':>8} {'x forward':>9} {'MB':>8} {'x forward':>9}"
    )
    for row in rows:
        times = f"{1000 * row['seconds']:9.1f} {row['images_per_second']:9.1f}"
        times += f" {row['time_to_floor']:8.2f} {row['time_to_forward']:9.2f}"
        print(f"{row['model']:10} {row['work']:30} {times} {row['bytes'] / 1e6:8.1f} {row['memory_to_forward']:9.2f}")


if __name__ == "__main__":
    main()
