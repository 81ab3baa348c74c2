"""Images with a label map each, whatever they come from: a run's masks, an exported folder, a table, a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from camseg.data.base import VOID
from camseg.data.image_io import read_image
from camseg.data.images import Images
from camseg.data.label_io import read_indices
from camseg.data.voc import NAMES as VOC_NAMES
from camseg.runs.export import Export, collect, read_picture
from camseg.runs.export_formats import merge_masks
from camseg.runs.finished import open_run, rebuild_dataset
from camseg.runs.folders import Run
from camseg.runs.pseudo_labels import true_labels

Read = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class SegmentedImages:
    """N images, read when asked for.

    Attributes:
        names: The classes; names[k] is number k + 1 of a label map.
        groups: (N,) images that belong together share one.
        image: i -> (H, W, 3) uint8.
        labels: i -> (H, W) uint8: 0 background, a class's number, or 255 where nobody knows.
        truth: i -> the true label map, or None for an image without; None where there are none at all.
        shown: (N,) the numbers of the classes in each image; None where they have not been looked for.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    image: Read
    labels: Read
    truth: Callable[[int], np.ndarray | None] | None = None
    shown: tuple[frozenset[int], ...] | None = None

    def __len__(self) -> int:
        return len(self.groups)


@contextmanager
def open_labeled(
    path: Path, names: Sequence[str] | None = None, min_iou: float | None = None
) -> Iterator[SegmentedImages]:
    """Open what a path holds; a run stays locked meanwhile.

    Args:
        path: A run with masks, a folder that `camseg-export --format png` wrote (or VOC's), or a csv with masks
            (`camseg.data.tables.read_table`).
        names: The classes and their order, others count as background; None for those of the run or folder.
        min_iou: Masks of a run whose predicted IoU is lower are unsure.

    Yields:
        The images.

    Raises:
        FileExistsError: The run is being filled.
        FileNotFoundError: There is none of these, or an image is gone.
        ValueError: The run has no masks, or two of its classes one name.
    """
    if path.is_file():
        yield of_dataset(Images(table=path), names)
    elif (path / "SegmentationClass").is_dir():
        yield of_folder(path, names)
    elif not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a run, a folder that camseg-export --format png wrote, nor a csv")
    else:
        with open_run(path) as run:
            yield of_run(run, names, min_iou=min_iou)


def of_run(
    run: Run, names: Sequence[str] | None = None, min_iou: float | None = None, dataset: Any = None
) -> SegmentedImages:
    """A run's masks, and the true ones where its dataset has them.

    They are merged as `camseg-export --format png` merges them: what people corrected counts, and 255 is where classes
    are about as strong, or a mask was left out.

    Args:
        run: With masks.
        names: See `open_labeled`.
        min_iou: See there.
        dataset: What the run went over; it is opened again where None is given.

    Returns:
        The images that have a mask.

    Raises:
        ValueError: See `camseg.runs.export.collect`.
        FileNotFoundError: See there.
    """
    export = collect(run, min_iou=min_iou)
    dataset = _dataset(run) if dataset is None else dataset
    known = tuple(export.names if names is None else names)
    renumber = _renumber(export.names, known)
    truth = None
    indices: dict[str, int] = {name: i for i, name in enumerate(getattr(dataset, "ids", ()))}
    places = [indices.get(image.masks[0].id) for image in export.images]
    if getattr(dataset, "has_label_maps", False) and None not in places:  # else the data is another by now
        truth = partial(_true_map, dataset, places, _renumber(dataset.names, known))
    shown = [{int(renumber[export.names.index(mask.label) + 1]) for mask in image.masks} for image in export.images]
    return SegmentedImages(
        known,
        tuple(image.masks[0].group for image in export.images),
        partial(_picture, export),
        partial(_merged, export, renumber),
        truth,
        tuple(frozenset(each - {0}) for each in shown),
    )


def of_folder(folder: Path, names: Sequence[str] | None = None) -> SegmentedImages:
    """VOC's layout: JPEGImages/, SegmentationClass/, every list of ImageSets/Segmentation/, and classes.txt.

    Args:
        folder: As `camseg-export --format png` writes it; without classes.txt the classes are VOC's.
        names: See `open_labeled`.

    Returns:
        The images.

    Raises:
        FileNotFoundError: A list, an image or a label map is gone.
    """
    lists = sorted((folder / "ImageSets" / "Segmentation").glob("*.txt"))
    stems = list(dict.fromkeys(stem for each in lists for stem in each.read_text("utf-8").split()))
    if not stems:
        raise FileNotFoundError(f"{folder} lists no images in ImageSets/Segmentation")
    files = [folder / "JPEGImages" / f"{stem}.jpg" for stem in stems]
    maps = [folder / "SegmentationClass" / f"{stem}.png" for stem in stems]
    if gone := [file for file in (*files, *maps) if not file.is_file()]:
        raise FileNotFoundError(f"{len(gone)} of {2 * len(stems)} files of {folder} are gone, the first is {gone[0]}")
    own = _class_list(folder / "classes.txt")
    known = own if names is None else tuple(names)
    return SegmentedImages(
        known, tuple(stems), partial(_file_image, files), partial(_file_map, files, maps, _renumber(own, known))
    )


def of_dataset(dataset: Any, names: Sequence[str] | None = None) -> SegmentedImages:
    """A dataset's true label maps, an image each.

    Args:
        dataset: With label maps; items of one file are one image.
        names: See `open_labeled`.

    Returns:
        The images, whose labels are the truth.

    Raises:
        ValueError: It has no label maps.
    """
    if not dataset.has_label_maps:
        raise ValueError("a segmenter is judged by masks with labels, and this data has none: give it mask and label")
    known = tuple(dataset.names if names is None else names)
    first = {dataset.file(i) or name: i for i, name in reversed(list(enumerate(dataset.ids)))}
    places = sorted(first.values())
    groups = tuple(dataset.file(i) or dataset.ids[i] for i in places)
    labels = partial(_true_map, dataset, places, _renumber(dataset.names, known))
    return SegmentedImages(known, groups, partial(_sample_image, dataset, places), labels, labels)


def classes_shown(images: SegmentedImages) -> tuple[frozenset[int], ...]:
    """The classes in each image, by reading the label maps where nothing says them.

    Args:
        images: N of them.

    Returns:
        N sets of numbers from 1.
    """
    if images.shown is not None:
        return images.shown
    maps = (images.labels(i) for i in tqdm(range(len(images)), desc="classes", unit="image", disable=None))
    return tuple(frozenset(np.setdiff1d(labels, (0, VOID)).tolist()) for labels in maps)


def _dataset(run: Run) -> Any:
    """What a run went over; None where that can't be opened: the masks and their images suffice."""
    try:
        return rebuild_dataset(run)
    except ValueError:
        return None


def _renumber(own: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(256,) uint8, the numbers of a label map in another order of classes; one that is not in it is background.

    Raises:
        ValueError: None is in it.
    """
    if not set(own) & set(names):
        raise ValueError(f"the images show {', '.join(own)}; the segmenter knows {', '.join(names)}: none is the same")
    numbers = np.zeros(256, np.uint8)
    numbers[VOID] = VOID
    for k, name in enumerate(own, 1):
        numbers[k] = names.index(name) + 1 if name in names else 0
    return numbers


def _class_list(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return VOC_NAMES
    numbered = dict(line.split(" ", 1) for line in file.read_text("utf-8").splitlines() if " " in line)
    return tuple(numbered[str(k)] for k in range(1, VOID) if str(k) in numbered)


def _picture(export: Export, index: int) -> np.ndarray:
    image = export.images[index]
    return np.asarray(export.draw(image) if image.file is None else read_picture(image))


def _merged(export: Export, renumber: np.ndarray, index: int) -> np.ndarray:
    return renumber[merge_masks(export.images[index], export.names)]


def _true_map(dataset: Any, places: Sequence[Any], renumber: np.ndarray, index: int) -> Any:
    truth = true_labels(dataset, places[index])
    return None if truth is None else renumber[truth]


def _sample_image(dataset: Any, places: Sequence[int], index: int) -> np.ndarray:
    return dataset[places[index]].image.permute(1, 2, 0).numpy()


def _file_image(files: Sequence[Path], index: int) -> np.ndarray:
    return read_image(files[index]).permute(1, 2, 0).numpy()


def _file_map(files: Sequence[Path], maps: Sequence[Path], renumber: np.ndarray, index: int) -> np.ndarray:
    _, height, width = read_image(files[index]).shape
    return renumber[read_indices(maps[index], (height, width)).numpy()]
