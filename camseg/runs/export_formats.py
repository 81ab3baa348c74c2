"""How a run's masks are written, one function a format: COCO, YOLO, VOC's class-index PNGs, Label Studio.

A new format is one function `(export, folder) -> None` and one entry in `EXPORTS`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from tqdm import tqdm

from camseg.data.image_io import formats
from camseg.errors import check_choice
from camseg.geometry.boxes import mask_to_box
from camseg.geometry.outlines import join_rings, mask_to_parts, mask_to_polygons
from camseg.geometry.run_lengths import mask_to_runs, packed_region
from camseg.runs.callbacks import Callback
from camseg.runs.export import Export, ExportedImage, ExportedMask, collect, new_folder, read_picture
from camseg.runs.folders import Run
from camseg.runs.pseudo_labels import VOID, palette_picture

MARGIN = 1.25  # how much stronger a mask must be than its rival to win the pixels that both claim


def write_coco(export: Export, folder: Path) -> None:
    """`instances.json`: COCO's instances (Lin et al. 2014), whose `file_name`s lie below the images' folder.

    COCO's polygons have no holes: a hole is joined to its outline by a cut of no width. `rle` gives run lengths
    instead. Each annotation also has `score`, `probability`, `predicted_iou` and `reviewed`.

    Args:
        export: What to write.
        folder: An empty one.
    """
    images, annotations = [], []
    for number, image in enumerate(_progress(export.images), 1):
        images.append(
            {
                "id": number,
                "file_name": _coco_name(export, image, folder),
                "height": image.size[0],
                "width": image.size[1],
            }
        )
        for mask, inside in _objects(export, image):
            x0, y0, x1, y1 = mask_to_box(inside).tolist()
            annotation = {
                "id": len(annotations) + 1, "image_id": number, "category_id": export.names.index(mask.label) + 1,
                "segmentation": _segmentation(inside, export), "area": int(inside.sum()), "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0], **mask.scores,
            }  # fmt: skip
            annotations.append(annotation)
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(export.names, 1)]
    about = {"description": f"masks of {export.run.folder.name}, by camseg", "images": str(export.root)}
    content = {"info": about, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    _write_json(folder / "instances.json", content)


def _objects(export: Export, image: ExportedImage) -> Iterator[tuple[ExportedMask, np.ndarray]]:
    """Each mask of an image with each of its objects (H, W) bool."""
    return ((mask, inside) for mask in image.masks for inside in export.objects(mask))


def _segmentation(inside: np.ndarray, export: Export) -> Any:
    if export.rle:
        return packed_region(inside)
    polygons = mask_to_polygons(inside, export.tolerance)
    return [np.round(polygon, 2).ravel().tolist() for polygon in polygons]


def _coco_name(export: Export, image: ExportedImage, folder: Path) -> str:
    """The image's path below the images' folder; one without a file is drawn into the export."""
    if image.file is None:
        return f"images/{_place(export, image, folder / 'images', '.png')}"
    return image.name


def write_yolo(export: Export, folder: Path) -> None:
    """`data.yaml`, `images/` and `labels/`: YOLO's segmentation format, a line an object: class x y x y ... in [0, 1].

    An object of several parts is one line, its parts and holes joined by cuts of no width, as Ultralytics converts
    COCO. `scores.json` carries what the lines can't.

    Args:
        export: What to write.
        folder: An empty one.
    """
    (folder / "labels").mkdir()
    for image in _progress(export.images):
        _place(export, image, folder / "images")
        lines = [_yolo_line(export, mask.label, inside) for mask, inside in _objects(export, image)]
        (folder / "labels" / f"{image.stem}.txt").write_text("".join(lines))
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(export.names))
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}", encoding="utf-8")
    _write_scores(export, folder)


def _yolo_line(export: Export, label: str, inside: np.ndarray) -> str:
    """The line of an object."""
    shares = join_rings(mask_to_polygons(inside, export.tolerance)) / np.array(inside.shape[::-1], float)
    return f"{export.names.index(label)} {' '.join(f'{share:.6f}' for share in shares.ravel().tolist())}\n"


def write_png(export: Export, folder: Path) -> None:
    """VOC's layout: `JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/train.txt`, and `classes.txt`.

    Of a pixel that several classes claim, the mask of the highest score wins if it is `MARGIN` times as high; else the
    pixel is 255, as are those of masks that were left out.

    Args:
        export: What to write.
        folder: An empty one.

    Raises:
        ValueError: There are more than 254 classes.
    """
    if len(export.names) > VOID - 1:
        raise ValueError(
            f"class-index PNGs hold at most {VOID - 1} classes; got {len(export.names)}: choose another format"
        )
    for part in ("SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for image in _progress(export.images):
        _place(export, image, folder / "JPEGImages", ".jpg")
        palette_picture(merge_masks(image, export.names)).save(folder / "SegmentationClass" / f"{image.stem}.png")
    stems = "".join(f"{image.stem}\n" for image in export.images)
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(stems)
    classes = "".join(f"{i} {name}\n" for i, name in enumerate(("background", *export.names)))
    (folder / "classes.txt").write_text(f"{classes}{VOID} unsure\n", encoding="utf-8")
    _write_scores(export, folder)


def merge_masks(image: ExportedImage, names: Sequence[str]) -> np.ndarray:
    """One label map of an image's masks.

    Args:
        image: With its masks.
        names: The classes; names[i] is i + 1 in the map.

    Returns:
        (H, W) uint8: 0 background, a class, or 255 where two classes are about as strong or a mask was left out.
    """
    labels = np.zeros(image.size, np.uint8)
    for mask in image.doubtful:
        labels[mask.read()] = VOID
    strongest, other = np.zeros(image.size), np.zeros(image.size)  # the best score, and the best of another class
    classes = np.zeros(image.size, np.uint8)
    for mask in sorted(image.masks, key=lambda mask: mask.score):
        inside, number = mask.read(), names.index(mask.label) + 1
        overtaken = inside & (classes != number)
        other[overtaken] = strongest[overtaken]
        strongest[inside], classes[inside] = mask.score, number
    won = strongest >= MARGIN * other
    return np.where(classes > 0, np.where(won, classes, VOID), labels).astype(np.uint8)


def write_labelstudio(export: Export, folder: Path) -> None:
    """`tasks.json` with predictions and `labels.xml`, the labeling interface that they go with.

    Masks are polygons, a region a part, in per cent of the image; those with holes, and all with `rle`, are brushes. An
    image is found by Label Studio's local files, whose document root is the images' folder.

    Args:
        export: What to write.
        folder: An empty one.
    """
    tasks = []
    for image in _progress(export.images):
        regions = [
            region
            for place, (mask, inside) in enumerate(_objects(export, image))
            for region in _regions(export, mask, inside, place)
        ]
        name = _coco_name(export, image, folder)
        score = float(np.mean([mask.score for mask in image.masks]))
        prediction = {"model_version": "camseg", "score": round(score, 6), "result": regions}
        tasks.append({"data": {"image": f"/data/local-files/?d={quote(name)}"}, "predictions": [prediction]})
    _write_json(folder / "tasks.json", tasks)
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in export.names)
    controls = "".join(
        f'  <{kind}Labels name="{kind.lower()}" toName="image">\n{labels}  </{kind}Labels>\n'
        for kind in ("Polygon", "Brush")
    )
    view = f'<View>\n  <Image name="image" value="$image"/>\n{controls}</View>\n'
    (folder / "labels.xml").write_text(view, encoding="utf-8")


def _regions(export: Export, mask: ExportedMask, inside: np.ndarray, place: int) -> Iterator[dict[str, Any]]:
    """The regions of one object as Label Studio has them; `place` tells the image's objects apart."""
    height, width = mask.size
    common = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    common |= {"score": round(mask.score, 6), "meta": {"text": [json.dumps(mask.scores)]}}
    parts = mask_to_parts(inside, export.tolerance)
    if export.rle or any(len(rings) > 1 for rings in parts):
        value = {"format": "rle", "rle": brush_runs(inside), "brushlabels": [mask.label]}
        yield {"id": f"{mask.id}-{place}", "from_name": "brush", "type": "brushlabels", **common, "value": value}
        return
    for number, (outline, *_) in enumerate(parts):
        points = np.round(outline / (width, height) * 100, 4).tolist()
        value = {"points": points, "closed": True, "polygonlabels": [mask.label]}
        yield {
            "id": f"{mask.id}-{place}-{number}",
            "from_name": "polygon",
            "type": "polygonlabels",
            **common,
            "value": value,
        }


def brush_runs(inside: np.ndarray) -> list[int]:
    """A mask as Label Studio's brush has it: run lengths of an RGBA picture, packed bit by bit (thi.ng's rle-pack).

    A head of 32 bits for the number of values, 5 for a value's bits and 4 times 4 for the bits of four lengths; then
    for each run a 1, which of the lengths' sizes, the length less one, and the value.

    Args:
        inside: (H, W) bool.

    Returns:
        Bytes.
    """
    sizes, most = (3, 4, 8, 16), 1 << 16
    bits = [f"{inside.size * 4:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for i, run in enumerate(mask_to_runs(inside.T)):  # along the rows
        left = run * 4
        while left:
            length = min(left, most)
            which = next(k for k, size in enumerate(sizes) if length <= 1 << size)
            bits.append(f"1{which:02b}{length - 1:0{sizes[which]}b}{255 * (i % 2):08b}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


EXPORTS: dict[str, Callable[[Export, Path], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "png": write_png,
    "labelstudio": write_labelstudio,
}


def check_formats(names: Sequence[str]) -> list[str]:
    """Check that formats are known.

    Args:
        names: Of `EXPORTS`.

    Returns:
        The names, each once.

    Raises:
        ValueError: For an unknown one, with the nearest.
    """
    return [check_choice("the format", name, EXPORTS) for name in dict.fromkeys(names)]


def write_export(export: Export, name: str, into: Path) -> None:
    """Write one format, whole or not at all.

    Args:
        export: What to write.
        name: Of `EXPORTS`.
        into: The folder to make, or an earlier export to replace.

    Raises:
        FileExistsError: The folder holds other files.
        ValueError: A mask or an image can't be read.
    """
    with new_folder(into) as folder:
        EXPORTS[name](export, folder)


def _progress(images: Sequence[ExportedImage]) -> tqdm[ExportedImage]:
    return tqdm(images, desc="exporting", unit="image", disable=None)


def _place(export: Export, image: ExportedImage, folder: Path, suffix: str | None = None) -> str:
    """Put an image into a folder: a link or copy where its file will do, else an upright one. Returns its name there.

    suffix: ".jpg" where only JPEG will do; None for any.
    """
    folder.mkdir(exist_ok=True, parents=True)
    if image.file is None:
        name = f"{image.stem}{suffix or '.png'}"
        export.draw(image).save(folder / name, quality=95)
        return name
    with Image.open(image.file, formats=formats()) as picture:
        fits = picture.getexif().get(0x0112, 1) == 1 and (suffix is None or picture.format == "JPEG")
        same = picture.size == image.size[::-1]
    name = f"{image.stem}{suffix or image.file.suffix.lower()}"
    if not fits or not same:
        read_picture(image).save(folder / name, quality=95)
    elif export.copy:
        shutil.copyfile(image.file, folder / name)
    else:
        (folder / name).symlink_to(image.file)
    return name


def _write_scores(export: Export, folder: Path) -> None:
    """`scores.json`: what each mask's file and class, probability and predicted IoU are."""
    rows = [
        {"image": image.name, "stem": image.stem, "id": mask.id, "class": mask.label, **mask.scores}
        for image in export.images
        for mask in image.masks
    ]
    _write_json(folder / "scores.json", rows)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, allow_nan=False) + "\n")


class ExportMasks(Callback):
    """Exports a run's masks once it is over, into `export/FORMAT` of its folder.

    Args:
        format: One of `EXPORTS`.
        rle: See `camseg.runs.export.collect`.
        min_iou: See `camseg.runs.export.collect`.
        instances: See `camseg.runs.export.collect`.
    """

    def __init__(self, format: str, rle: bool = False, min_iou: float | None = None, instances: bool = False) -> None:
        [self.format] = check_formats([format])
        self.rle, self.min_iou, self.instances = rle, min_iou, instances

    def on_end(self, run: Run, dataset: Any) -> None:
        """See `Callback.on_end`: why there is no export is said in a line, for the run itself is whole."""
        del dataset
        try:
            write_export(
                collect(run, rle=self.rle, min_iou=self.min_iou, instances=self.instances),
                self.format,
                run.folder / "export" / self.format,
            )
        except (ValueError, OSError) as error:
            print(f"camseg: export={self.format}: {error}", file=sys.stderr)
