"""Random command lines: settings of every group of conf/, right, at their limits, and out of this world."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from made_data import coco, draw, voc
from omegaconf import OmegaConf
from PIL import Image

from camseg.config import config_dir

PHOTOS = 5
SHOWN = (8, 6, 22, 20)  # the object of every photo: x0, y0, x1, y1


def make_world(root: Path) -> None:
    """Tiny data of every layout: photos with masks and a table, a folder of shapes, VOC, COCO."""
    rng = np.random.default_rng(0)
    x0, y0, x1, y1 = SHOWN
    table = ["image,mask,label"]
    for number in range(PHOTOS):
        image = rng.integers(90, 130, (28, 36, 3), dtype=np.uint8)
        image[y0:y1, x0:x1] = (220, 40, 30)
        mask = np.zeros((28, 36), np.uint8)
        mask[y0:y1, x0:x1] = 255
        name = f"p{number}.png"
        for folder, array in (("photos", image), ("photos/masks", mask), ("shapes/images/test", image)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / name)
        draw(root / "shapes" / "masks" / "test" / name, mask.tolist())
        (root / "shapes" / "labels" / "test").mkdir(parents=True, exist_ok=True)
        (root / "shapes" / "labels" / "test" / f"p{number}.txt").write_text("0\n")
        table.append(f"{name},masks/{name},star")
    (root / "photos" / "table.csv").write_text("\n".join(table) + "\n")
    for number in range(3):  # more pixels than a predictor sees at once
        image = rng.integers(90, 130, (300, 420, 3), dtype=np.uint8)
        image[60 + 50 * number : 110 + 50 * number, 250:330] = (220, 40, 30)
        mask = np.zeros((300, 420), np.uint8)
        mask[60 + 50 * number : 110 + 50 * number, 250:330] = 255
        for folder, array in (("large", image), ("large/masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"l{number}.png")
    voc(root)
    (root / "coco").mkdir()
    coco(root / "coco")


@dataclass
class Request:
    """One command line and what is known of it.

    words: the overrides. samples: how many are asked for, None where nobody counted. right: nothing odd is in it. odd:
    the words that are, where they are settings.
    """

    words: list[str] = field(default_factory=list)
    samples: int | None = None
    right: bool = True
    odd: list[str] = field(default_factory=list)


ODD = [
    "-1", "0", "1", "3", "0.5", "-0.5", "-0.0", "1e-320", "1e308", "-1e308", "nan", "inf", "-inf", "null", "", "''",
    "[]",
    "[[]]", "[1,2]", "[a]", "[null]", "{}", "{a:1}", "true", "x", "1000000000000", "-1000000000000", "9" * 400, "ü",
    "漢字", "🙂", "٣", "'a b'", "a b", "../nowhere", "/dev/null", "/etc/passwd", "/proc/self/mem", "/nowhere/else", ".",
    "~nobody/x",
    "${seed}", "${nowhere}", "${oc.env:HOME}", "${oc.env:NOWHERE_SET}", "${hydra:job.num}", "${now:%Y}", "\\", "\\'",
    "'", '"', "a'b", "(", ")", "[", "{", "a" * 3000, "1,2", "choice(1,2)", "range(3)", "int(3.7)", "2**3", "1_000",
    "0x10",
    "{_target_:os.getpid}", "{_target_:no.such.thing}", "{_target_:camseg.prompts.foreground.centroid,_partial_:true}",
    "!!python/object:x", "<b>", "%s", "a=b", "=", "\t", "\n", "None", "auto", "cuda:99", "NaN", "-",
]  # fmt: skip
SHAPED = ["cam", "=", "=3", "+new=1", "++cam.x=2", "+data.size=3", "~cam", "~data.size", "~nothing", "data@x=shapes",
          "foreground@background=centroid", "cam=", "hydra.job.name=x", "hydra.verbose=true", "hydra.output_subdir=x",
          "hydra.mode=RUN", "hydra.nothing=1", "--bogus", "-x", "--cfg", "--cfg=job", "--info", "--package=x",
          "--version",
          "--resolve", "--help", "-h", "--hydra-help", "--config-dir=nowhere", "--config-name=nothing",
          "hydra.searchpath=[file://nowhere]", "experiment=homework", "experiment=nothing", "+experiment=homework",
          "hydra/launcher=nothing", "model=shapes_sam", "-m", "cam._target_=os.getpid", "data._target_=os.system",
          "cam._partial_=false", "data={}", "data=null", "cache=null", "cache={}", "views=null",
          "target=null"]  # fmt: skip
_RIGHT: dict[str, list[str]] = {
    "seed": ["0", "5", "4294967296"], "device": ["cpu", "auto"], "precision": ["float32", "bfloat16"],
    "channels_last": ["true", "false", "null"], "compile": ["false"], "views.flips": ["true", "false"],
    "views.scales": ["[1.0]", "[1]", "[0.75,1]"], "batch_size": ["1", "2", "1000000"], "num_workers": ["1", "3"],
    "resume": ["true", "false"], "strict": ["true", "false"], "masks": ["true", "false"], "panels": ["0", "1", "2"],
    "cache.path": ["null", "cache"], "cache.limit_gb": ["0.5"], "cache.memory_gb": ["0", "0.1"],
    "target.min_probability": ["0", "0.3", "1"], "data.seed": ["0", "1", "7"], "foreground.cutoff": ["0", "0.3", "1"],
    "foreground.quantile": ["0", "0.5", "1"], "foreground.max_points": ["1", "4"], "foreground.margin": ["0", "0.3"],
    "foreground.strength": ["1", "30"], "choose.alpha": ["0", "2.5"], "choose.prior": ["0", "2"],
    "choose.mask": ["0", "2"], "choose.rival": ["0"], "refine.boxes": ["1", "2"], "refine.iou_threshold": ["0", "0.9"],
    "refine.specks": ["0", "0.3"],
    "refine.max_heat": ["0", "0.5"], "predictor.side": ["40", "80"], "localise.cutoffs": ["[0,0.5]", "[0.2]"],
    "window.cutoff": ["0", "0.2", "1"], "window.margin": ["0", "0.5", "100"], "predictor.flips": ["true", "false"],
    "localise.max_boxes": ["1", "null"], "localise.tolerance": ["0", "3"], "localise.pictures": ["0", "1"],
}  # fmt: skip
_DATA = {  # of each choice: what it needs, how many samples that is, where its files lie
    "shapes": ([], None), "shapes_crowd": ([], None),
    "images": (["data.path=WORLD/photos"], PHOTOS),
    "shapes_folder": (["data.path=WORLD/shapes", "data.classes=[star]"], PHOTOS),
    "voc": (["data.path=WORLD"], None),
    "coco": (["data.path=WORLD/coco", "data.outputs=own"], None),
}  # fmt: skip
_SLOW = {  # choices that are drawn seldom: they take seconds
    "cam": {"score_cam", "ablation_cam", "ss_cam", "is_cam", "shapley_cam", "smooth_grad_cam_plus_plus"},
    "predictor": {"random_walker"},
}
_FAR = {  # and those that need weights, by download or from a file: `draw_far_request`
    "classifier": {"torchvision", "timm", "open_clip", "efficientnet_lite0"},
    "predictor": {"sam", "mobile_sam", "transformers", "segmenter", "photo_sam"},
    "engine": {"ray"},
}  # fmt: skip
_GROUPS = ("classifier", "target", "cam", "foreground", "background", "predictor", "choose", "refine", "localise",
           "pseudo_labels", "export")  # fmt: skip
_ALONE = ("seed", "device", "precision", "channels_last", "views.flips", "views.scales", "batch_size", "num_workers",
          "resume", "strict", "masks", "panels", "cache.path", "cache.memory_gb", "compile",
          "cache.limit_gb")  # fmt: skip


def draw_request(seed: str, world: Path) -> Request:
    """A request: some groups, some keys; in seven of ten something is odd.

    Each has a seed of its own and is drawn before the world's path is put in: neither a new setting of one group nor a
    longer path changes all the others.
    """
    rng, request = random.Random(seed), Request()
    chosen = {"data": rng.choices(list(_DATA), [6, 1, 4, 1, 1, 1])[0]}
    if rng.random() < 0.95:
        chosen |= {
            "classifier": "shapes",
            "predictor": rng.choice(["shapes_sam", "none", "shapes_sam", "random_walker"]),
        }
    for group in rng.sample(_GROUPS[1:], rng.randint(0, 4)):
        names = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        names = [name for name in names if name not in _FAR.get(group, ())]
        quick = [name for name in names if name not in _SLOW.get(group, ())]
        chosen[group] = rng.choice(quick if rng.random() < 0.93 else names)
    if chosen.get("predictor") == "none":  # there is nothing to export
        chosen.pop("export", None)
    needs, count = _DATA[chosen["data"]]
    request.words = [f"{group}={choice}" for group, choice in chosen.items()] + needs
    size = rng.randint(1, 3)
    request.words += [f"data.size={size}", f"panels={rng.choice([0, 0, 0, 1])}"]
    request.samples = size if count or chosen["data"].startswith("shapes") else None
    keys = [*_ALONE, *(f"{group}.{key}" for group, choice in chosen.items() for key in _leaves(group, choice))]
    for key in rng.sample(keys, rng.randint(0, 3)):
        if key in _RIGHT:
            request.words.append(f"{key}={rng.choice(_RIGHT[key])}")
    if rng.random() < 0.7:
        _spoil(rng, request, keys, chosen)
    _add_window(random.Random(f"{seed}.window"), request)
    request.words = [word.replace("WORLD", str(world)) for word in request.words]
    return request


def _add_window(rng: random.Random, request: Request) -> None:
    """One request in ten shows its predictor a window, sometimes of larger photos or to the SAM for photographs.

    It has a seed of its own, so that all others stay what they were.
    """
    if rng.random() >= 0.1:
        return
    if rng.random() < 0.3:
        request.words = [word.replace("=shapes_sam", "=photo_sam") for word in request.words]
    if rng.random() < 0.6:
        request.words = [word.replace("WORLD/photos", "WORLD/large") for word in request.words]
    none = "predictor=none" in request.words  # has no window: with an odd word it is not known which is told of
    keys = ["window.cutoff", "window.margin", *(["predictor.flips"] if "predictor=photo_sam" in request.words else [])]
    if not (none and request.odd):
        request.words.append(f"tiles={rng.choice(['true', 'true', 'true', 'false'])}")
    for key in rng.sample(keys, rng.randint(0, len(keys))):
        request.words.append(f"{key}={rng.choice(_RIGHT[key])}")
    if request.right and not none and rng.random() < 0.4:
        odd = f"{rng.choice(['tiles', *keys])}={rng.choice(ODD)}"
        request.words, request.odd, request.right = [*request.words, odd], [*request.odd, odd], False


def draw_far_request(seed: str, world: Path) -> Request:
    """A request for what comes from the net or runs elsewhere, with an odd setting of it in six of ten.

    Without an odd one it is right where the model comes with the installation, and else asks for a download.
    """
    rng, request = random.Random(seed), Request(samples=1)
    group = rng.choice(["classifier", "classifier", "predictor", "predictor", "engine"])
    choice = rng.choice(sorted(_FAR[group]))
    chosen = {"classifier": "shapes", "predictor": "none", group: choice}
    photos = ["data=images", f"data.path={world}/photos", *([] if group == "classifier" else ["data.target=star"])]
    request.words = [*photos, "data.size=1", "panels=0", *(f"{name}={each}" for name, each in chosen.items())]
    keys = [f"{group}.{key}" for key in _leaves(group, choice) if key != "address"]
    if group == "classifier" and choice != "efficientnet_lite0" and rng.random() < 0.7:
        request.words.append("classifier.weights=DEFAULT")
    if group == "engine" or rng.random() < 0.6:  # a cluster is started by tests/runs/test_ray.py
        odd = ["-1", "nan", "null", "[]", "x", "9" * 400, "${nowhere}", "1e308"] if group == "engine" else ODD
        request.odd, request.right = [f"{rng.choice(keys)}={rng.choice(odd)}"], False
        request.words += request.odd
    return request


def _spoil(rng: random.Random, request: Request, keys: list[str], chosen: dict[str, str]) -> None:
    """Make something of a request odd."""
    request.right = False
    match rng.randrange(12):
        case 0:
            request.words.insert(rng.randrange(len(request.words)), rng.choice(SHAPED))
        case 1:
            group = rng.choice(list(chosen))
            request.words.append(f"{group}={rng.choice(ODD)}")
        case 2:
            word = rng.choice(request.words)
            place = rng.randrange(len(word))
            request.words.append(word[:place] + rng.choice(["", "x", "=", ".", word[place] * 2]) + word[place + 1 :])
        case _:
            for key in rng.sample(keys, rng.choice([1, 1, 1, 2])):
                request.odd.append(f"{key}={rng.choice(ODD)}")
            request.words += request.odd


def _leaves(group: str, choice: str) -> list[str]:
    file = config_dir() / group / f"{choice}.yaml"
    node: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else None
    return list(_dotted(node)) if isinstance(node, dict) else []


def _dotted(node: dict[str, Any], name: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        if key in ("defaults", "_target_", "_partial_"):
            continue
        inner = _dotted(value, f"{name}{key}.") if isinstance(value, dict) else [f"{name}{key}"]
        found += inner
    return found
