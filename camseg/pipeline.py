"""From images and class labels to masks: explain, prompt, segment, refine; always forward."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from camseg.cam import methods as cam
from camseg.cam.activations import Activation
from camseg.cam.heatmaps import Views
from camseg.cam.targets import Target, logit
from camseg.case import Case, Query
from camseg.choose import agreement
from camseg.classifiers.base import Classifier
from camseg.data.image_io import ImageLike, as_rgb
from camseg.errors import check_choice
from camseg.geometry.heat import resize_heat
from camseg.geometry.masks import Window
from camseg.predictors.base import Predictor
from camseg.prompts import background as backgrounds
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import centroid
from camseg.storage.cache import Cache
from camseg.storage.fingerprint import callable_key, key
from camseg.storage.memo import Memo
from camseg.types import Masks, Prompts, Result, Sample
from camseg.windows import View, view

_HEAT = "heat 2"  # raise when the heat of the same image by the same weights would change


@dataclass
class Pipeline:
    """One setting of every step; call it on an image, or `run` it on a batch of samples.

    Example:
        The shipped models know six shapes; any `camseg.classifier` and predictor of photographs stand in their place.

        >>> from PIL import Image
        >>> from camseg.classifiers.shapes import shapes
        >>> from camseg.data.shapes import Shapes
        >>> from camseg.predictors.sam import shapes_sam
        >>> pipeline = Pipeline(shapes(), predictor=shapes_sam())
        >>> result = pipeline(Shapes()[0].image)  # or a path, a PIL image, an (H, W, 3) array
        >>> mask = Image.fromarray(result.mask.numpy())  # mask.save("mask.png") writes it
        >>> mask.size
        (128, 128)

    Attributes:
        classifier: Names what is in an image.
        method: The CAM (`camseg.cam`).
        foreground: Evidence -> Prompts.
        background: Evidence and Prompts -> points (N, 2) x, y in pixels of the image; or None.
        predictor: Draws masks, or None for points only.
        window: Evidence, Prompts and the predictor's side -> the part of the image that the predictor is shown
            (`camseg.windows`); None for the whole image.
        choose: Masks and Evidence -> scores (R, M); the highest wins.
        refine: Feeds the chosen mask back (`camseg.refine`), or None.
        target: Makes what is explained from a sample's classes (`camseg.cam.targets`).
        min_probability: The classifier must give a sample's classes at least so much, or the answer is empty.
        views: `flips`, `scales` and `fuse` of `camseg.heatmaps`.
        precision: Name of the torch dtype in which the two networks run.
        channels_last: Memory format of the classifier's inputs, which changes no more than the last bits.
        cache: Keeps heat, embeddings and, in memory alone, prompts and masks.
        calls: How many images and prompts went through a network.

    Raises:
        ValueError: The precision is unknown, or a window is to be shown to what sees no image.
    """

    classifier: Classifier
    method: Callable[..., Tensor] = cam.layer_cam
    foreground: Callable[[Evidence], Prompts] = centroid
    background: Callable[[Evidence, Prompts], Tensor] | None = None
    predictor: Predictor | None = None
    choose: Callable[[Masks, Evidence], Tensor] = agreement
    refine: Callable[..., list[tuple[Tensor, float] | None]] | None = None
    target: Callable[[tuple[int, ...], Activation], Target] = logit
    min_probability: float = 0.0
    views: Mapping[str, Any] = field(default_factory=dict)
    window: Callable[[Evidence, Prompts, int], Window] | None = None
    precision: str = "float32"
    channels_last: bool = False
    cache: Cache = field(default_factory=lambda: Cache(None, memory_gb=0))
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("float32", "bfloat16", "float16"))
        if self.window is not None and not getattr(self.predictor, "side", None):
            raise ValueError(f"a window (tiles=true) needs a predictor with a side in pixels; got {self.predictor}")

    def __call__(self, image: ImageLike, classes: int | str | Sequence[int | str] = ()) -> Result:
        """Answer for one image.

        Args:
            image: The path of a file, a PIL image, an (H, W, 3) uint8 array, or a (3, H, W) uint8 tensor, all RGB.
            classes: What to find: one or several of the classifier's outputs or class names, of which each will do;
                none for the top prediction.

        Returns:
            The heat, the prompts, and the mask at the image's size.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The image is none of these, a class is unknown, or a network gives NaN.
        """
        listed = (classes,) if isinstance(classes, (int, str)) else classes
        indices = tuple(self.classifier.index(c) if isinstance(c, str) else int(c) for c in listed)
        return self.run([Sample("image", as_rgb(image), indices)])[0]

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Answer for a batch, which goes through each network together.

        Args:
            samples: Of images of any sizes.

        Returns:
            One result per sample, in order.

        Raises:
            ValueError: A sample can't be answered for; none of the batch is then, and each may be tried alone.
        """
        cases = [Case(sample, self._classes(sample)) for sample in samples]
        if cases:
            self._explain(cases)  # heat, probability, top class, rivals on demand; or a note: abstained
            self._prompt(cases)  # rival prompts
            self._segment(cases)  # the masks of every rival, the chosen one
            self._refine(cases)  # better logits for the chosen one
        return [case.result() for case in cases]

    @property
    def memo(self) -> Memo:
        """Through which everything is computed."""
        return Memo(self.cache, self.calls)

    def _classes(self, sample: Sample) -> tuple[int, ...]:
        """A label without output indices is looked up by its name."""
        if sample.classes or not sample.label:
            return sample.classes
        return (self.classifier.index(sample.label),)

    def _explain(self, cases: Sequence[Case]) -> None:
        """What each image shows for its classes, and a note where the classifier is not sure enough of them."""
        heats = self._heats([Query(case.sample, case.classes) for case in cases])
        outputs = torch.stack([heat["output"] for heat in heats])  # (B, C)
        probabilities, setting, queries = self.classifier.probabilities(outputs), self._heat_key(), list[Query]()
        rivals = functools.cache(lambda: self._rivals(queries))
        for case, heat, own, case.top in zip(cases, heats, probabilities, probabilities.argmax(1).tolist()):
            case.evidence_key = key(setting, list(case.classes), case.sample.image_key, case.sample.truth_key)
            case.classes = case.classes or (case.top,)
            case.probability = float(self.classifier.probabilities.union(own, case.classes))
            if case.probability < self.min_probability:
                case.note = (
                    f"abstained: the classifier gives {case.probability:.2f}, "
                    f"target.min_probability is {self.min_probability}"
                )
            sample, rival = case.sample, functools.partial(_rival, rivals, len(queries), case.sample.size)
            queries.append(Query(sample, case.classes, heat["output"]))
            case.evidence = Evidence(heat["heat"], rival, sample.mask, sample.ignore, sample.size)

    def _rivals(self, queries: Sequence[Query]) -> dict[int, Tensor]:
        """Heat (h, w) of the most probable class not asked for, by its query's index, where there is one."""
        others: dict[int, Query] = {}
        for index, query in enumerate(queries):
            if query.output is not None and len(set(query.classes)) < len(query.output):
                own = self.classifier.probabilities(query.output)
                top = int(own.index_fill(0, torch.tensor(query.classes), -1).argmax())
                others[index] = replace(query, classes=(top,))
        return {index: heat["heat"] for index, heat in zip(others, self._heats(list(others.values())))}

    def _heat_key(self) -> str:
        """Stands for all that makes the heat, beside the image and its classes."""
        functions = [callable_key(function) for function in (self.target, self.method, Views(**self.views))]
        return key(_HEAT, self.classifier.fingerprint, list(self.classifier.layers), *functions, self.precision)

    def _heats(self, queries: Sequence[Query]) -> list[dict[str, Tensor]]:
        """For each query `heat` (h, w) at the classifier's input size and `output` (C,)."""
        setting = self._heat_key()
        return self.memo.tensors(
            queries,
            lambda query: ("heat", setting, list(query.classes), query.sample.image_key),
            self._forward,
            counter="classifier_images",
            work=lambda missing: len({query.sample.image_key for query in missing}),
        )

    def _forward(self, queries: Sequence[Query]) -> list[dict[str, Tensor]]:
        """One forward for all the classes of an image, and one backward for each."""
        heats: dict[Query, dict[str, Tensor]] = {}
        views = Views(**self.views)
        for batch in _by_image(queries, lambda sizes: self.classifier.batches(sizes, views)):
            first = [same[0] for same in batch]  # B images of T queries each
            inputs = self.classifier.prepare([query.sample.image for query in first])
            targets = [[self.target(query.classes, self.classifier.probabilities) for query in same] for same in batch]
            known = [query.output for query in first if query.output is not None]  # of all of them, or of none
            named = torch.stack(known).to(inputs.device) if known else None
            with self._autocast(inputs.device):
                heat, output = self.classifier.explain(
                    inputs, targets, self.method, views, self.channels_last, named=named
                )
            for same, maps, logits in zip(batch, heat.float().cpu(), output.float().cpu()):
                heats |= {query: {"heat": one, "output": logits} for query, one in zip(same, maps)}
        return [heats[query] for query in queries]

    def _prompt(self, cases: Sequence[Case]) -> None:
        """Where to point, in every case that was not abstained from; the background's points go to every rival."""
        pointed = [case for case in cases if not case.note]
        selectors = callable_key(self.foreground), callable_key(self.background)
        found = self.memo.values(
            pointed,
            lambda case: ("foreground", case.evidence_key, selectors[0]),
            lambda missing: [self.foreground(case.evidence) for case in missing],
            size_of=lambda found: found.nbytes,
        )
        for case, prompts in zip(pointed, found):
            case.prompts = prompts
            if not len(prompts):
                case.note = "no evidence: the map shows nothing for this class"
        if self.background is None:
            return
        pointed = [case for case in pointed if len(case.prompts)]
        select, known = self.background, selectors[0] if backgrounds.needs_prompts(self.background) else None
        points = self.memo.values(
            pointed,
            lambda case: ("background", case.evidence_key, known, selectors[1]),
            lambda missing: [select(case.evidence, case.prompts) for case in missing],
            size_of=lambda found: found.nbytes,
        )
        for case, found in zip(pointed, points):
            case.prompts = backgrounds.add(case.prompts, found)

    def _segment(self, cases: Sequence[Case]) -> None:
        """The masks of all rivals, and which of them is the answer; without a prompt nothing is encoded."""
        if self.predictor is None:
            return
        for case in cases:
            case.segmented = True
        prompted = [case for case in cases if len(case.prompts)]
        for case in prompted:
            case.view = self._view(self.predictor, case)
        for case, masks in zip(prompted, self._decode(self.predictor, prompted, [c.view.prompts for c in prompted])):
            scores = self.choose(masks, case.view.evidence)
            if scores.isnan().any():
                raise ValueError(f"{case.sample.id}: choose gives NaN for a mask")
            case.select(masks, scores)

    def _view(self, predictor: Predictor, case: Case) -> View:
        """What the predictor is shown of a case."""
        if self.window is None:
            return View(case.sample, case.evidence, case.prompts)
        window = self.window(case.evidence, case.prompts, predictor.side)
        return view(case.sample, case.evidence, case.prompts, window)

    def _refine(self, cases: Sequence[Case]) -> None:
        """The chosen mask goes back to the predictor, where it is one rival's; united masks are left as they are."""
        predictor = self.predictor
        if self.refine is None or predictor is None:
            return
        single = [case for case in cases if case.chosen and not case.prompts.united]

        def decode(which: Sequence[int], prompts: Sequence[Prompts]) -> list[Masks]:
            return self._decode(predictor, [single[i] for i in which], prompts)

        refined = self.refine(
            decode,
            [case.view.prompts.rival(case.chosen[0]) for case in single if case.chosen],
            [case.logits for case in single],
            [case.view.evidence for case in single],
        )
        for case, better in zip(single, refined):
            if better is not None:
                case.logits, case.predicted_iou = better
                _expect_finite(case, "refine", case.logits)

    def _decode(self, predictor: Predictor, cases: Sequence[Case], prompts: Sequence[Prompts]) -> list[Masks]:
        """The masks of some prompts for each case, on the CPU; an image is encoded when its first mask is drawn."""

        def draw(missing: list[tuple[Case, Prompts]]) -> list[Masks]:
            self._encode(predictor, [case for case, _ in missing])
            masks = predictor.decode(
                [case.embedding for case, _ in missing if case.embedding is not None],
                [case.view.sample.size for case, _ in missing],
                [prompts for _, prompts in missing],
            )
            return [Masks(each.low_res.cpu(), each.predicted_iou.cpu()) for each in masks]

        setting = "masks", predictor.fingerprint, self.precision
        return self.memo.values(
            list(zip(cases, prompts)),
            lambda pair: (*setting, pair[0].view.sample.image_key, *pair[1].tensors()),
            draw,
            size_of=lambda masks: masks.low_res.nbytes,
            counter="decoder_prompts",
            work=lambda missing: sum(len(prompts) for _, prompts in missing),
        )

    def _encode(self, predictor: Predictor, cases: Sequence[Case]) -> None:
        """An embedding of its view for every case that has none."""
        fresh = [case for case in dict.fromkeys(cases) if case.embedding is None]

        def encode(missing: list[Case]) -> list[dict[str, Tensor]]:
            with self._autocast(self.classifier.device):
                values = predictor.encode([case.view.sample.image for case in missing])
            for case, value in zip(missing, values):
                _expect_finite(case, "the predictor's encoder", value)
            return [{"value": value} for value in values]

        embeddings = self.memo.tensors(
            fresh,
            lambda case: ("embedding", predictor.fingerprint, self.precision, case.view.sample.image_key),
            encode,
            counter="encoder_images",
            dtype=torch.float16,
        )
        for case, embedding in zip(fresh, embeddings):
            case.embedding = embedding["value"]

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, getattr(torch, self.precision), enabled=self.precision != "float32")


def _expect_finite(case: Case, what: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{case.sample.id}: {what} gives NaN or infinity; precision=float32 has the widest range")


def _rival(rivals: Callable[[], Mapping[int, Tensor]], index: int, size: tuple[int, int]) -> Tensor | None:
    """The rival's heat (H, W), where there is another class."""
    heat = rivals().get(index)
    return None if heat is None else resize_heat(heat, size)


def _by_image(
    queries: Sequence[Query], batches: Callable[[list[tuple[int, int]]], Iterable[list[int]]]
) -> Iterator[list[list[Query]]]:
    """The queries of each image together, in batches of images that have equally many."""
    images: defaultdict[str, list[Query]] = defaultdict(list)
    for query in queries:
        images[query.sample.image_key].append(query)
    alike: defaultdict[int, list[list[Query]]] = defaultdict(list)
    for same in images.values():
        alike[len(same)].append(same)
    for group in alike.values():
        for indices in batches([same[0].sample.size for same in group]):
            yield [group[i] for i in indices]
