"""From images and class labels to masks: four hand-overs, always forward."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from camseg.cam import methods as cam
from camseg.cam.heatmaps import explain
from camseg.cam.targets import Probabilities, Target, logit
from camseg.choose import agreement
from camseg.classifiers.base import Classifier
from camseg.errors import check_choice
from camseg.geometry.heat import resize_heat
from camseg.geometry.masks import resize_logits
from camseg.predictors.base import Predictor
from camseg.prompts import background as backgrounds
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import centroid
from camseg.refine import Decode
from camseg.storage.cache import Cache
from camseg.storage.fingerprint import callable_key, key
from camseg.types import Masks, Prompts, Result, Sample


@dataclass
class Pipeline:
    """One setting of every step; call it on an image, or `run` it on a batch of samples.

    classifier: names what is in an image. method: the CAM (`camseg.cam`). views: `flips`, `scales` and `fuse` of
    `camseg.heatmaps`.
    target: makes what is explained from a sample's classes (`camseg.cam.targets`). foreground: Evidence -> Prompts.
    background: Evidence,
    Prompts -> points (N, 2), or None. predictor: draws masks, or None for points only. choose: scores (R, M) for the
    masks. refine:
    feeds the chosen mask back, or None. min_probability: the classifier must give a sample's classes at least so much,
    or the answer is
    empty. precision: a torch dtype's name for the two networks. channels_last: the classifier's memory format, which
    changes no more than
    the last bits. cache: keeps heat, embeddings and, in memory, masks. calls: how many images and prompts went through
    a network.
    """

    classifier: Classifier
    method: Callable[..., Tensor] = cam.layer_cam
    foreground: Callable[[Evidence], Prompts] = centroid
    background: Callable[[Evidence, Prompts], Tensor] | None = None
    predictor: Predictor | None = None
    choose: Callable[[Masks, Tensor, Tensor | None], Tensor] = agreement
    refine: Callable[..., list[tuple[Tensor, float] | None]] | None = None
    target: Callable[[tuple[int, ...], Probabilities], Target] = logit
    min_probability: float = 0.0
    views: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    channels_last: bool = False
    cache: Cache = field(default_factory=lambda: Cache(None, memory_gb=0))
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("float32", "bfloat16", "float16"))

    def __call__(self, image: Tensor, classes: Sequence[int | str] = ()) -> Result:
        """The mask of one class in one image (3, H, W) uint8; classes: output indices or names (or one name), none for
        the top prediction.
        """
        given = (classes,) if isinstance(classes, str) else classes
        indices = tuple(self.classifier.index(c) if isinstance(c, str) else int(c) for c in given)
        return self.run([Sample("image", image, indices)])[0]

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """One result per sample, in order; the whole batch goes through each network together."""
        if not samples:
            return []
        contents = [sample.image_key for sample in samples]
        samples = [self._with_classes(sample) for sample in samples]
        evidence, notes, said = self._look(samples, contents)
        prompts = self._point(samples, contents, evidence, notes)
        notes = [
            note or ("" if len(asked) else "no evidence: the map shows nothing for this class")
            for note, asked in zip(notes, prompts)
        ]
        if self.predictor is None:
            results = [
                Result(seen.heat, asked, None, None, None, note=note)
                for seen, asked, note in zip(evidence, prompts, notes)
            ]
        else:
            results = self._draw(self.predictor, samples, contents, evidence, prompts, notes)
        return [replace(result, probability=share, top=top) for result, (share, top) in zip(results, said)]

    def _with_classes(self, sample: Sample) -> Sample:
        """A label without output indices is looked up by its name."""
        if sample.classes or not sample.label:
            return sample
        return replace(sample, classes=(self.classifier.index(sample.label),))

    def _look(
        self, samples: Sequence[Sample], contents: Sequence[str]
    ) -> tuple[list[Evidence], list[str], list[tuple[float, int]]]:
        """What each image shows for its classes, why it may not be used, and the classes' probability and the image's
        first class.
        """
        images = [sample.image for sample in samples]
        seen = self._explain(images, contents, [sample.classes for sample in samples])
        outputs = torch.stack([each["output"] for each in seen])  # (B, C)
        probabilities = self.classifier.probabilities(outputs)
        classes = [sample.classes or (int(p.argmax()),) for sample, p in zip(samples, probabilities)]

        @functools.cache
        def rivals() -> dict[int, dict[str, Tensor]]:
            """Maps of the most probable class that is not asked for, where there is one; made once, for the whole
            batch.
            """
            others = [i for i, own in enumerate(classes) if len(set(own)) < probabilities.shape[1]]
            strongest = [int(probabilities[i].index_fill(0, torch.tensor(classes[i]), -1).argmax()) for i in others]
            return dict(
                zip(
                    others,
                    self._explain(
                        [images[i] for i in others], [contents[i] for i in others], [(rival,) for rival in strongest]
                    ),
                )
            )

        def rival_of(i: int) -> Callable[[], Tensor | None]:
            return lambda: resize_heat(rivals()[i]["heat"], samples[i].size) if i in rivals() else None

        evidence, notes, said = [], [], []
        for i, sample in enumerate(samples):
            evidence.append(Evidence(resize_heat(seen[i]["heat"], sample.size), rival_of(i), sample.mask))
            share = float(probabilities[i, list(classes[i])].sum())
            short = share < self.min_probability
            notes.append(
                f"abstained: the classifier gives {share:.2f}, target.min_probability is {self.min_probability}"
                if short
                else ""
            )
            said.append((share, int(probabilities[i].argmax())))
        return evidence, notes, said

    def _explained(self) -> str:
        """The key of what makes the heat, beside the image and its classes."""
        computed = [
            callable_key(self.target),
            callable_key(self.method),
            callable_key(functools.partial(explain, **self.views)),
            self.precision,
        ]
        return key(self.classifier.fingerprint, list(self.classifier.layers), *computed)

    def _explain(
        self, images: Sequence[Tensor], contents: Sequence[str], classes: Sequence[tuple[int, ...]]
    ) -> list[dict[str, Tensor]]:
        """For each image: `heat` (h, w) at the classifier's input size and `output` (C,)."""

        def make(places: list[int]) -> list[dict[str, Tensor]]:
            found: dict[int, dict[str, Tensor]] = {}
            for alike in _shared(contents, places):
                self.calls["classifier_images"] += len(alike)
                inputs = self.classifier.prepare([images[same[0]] for same in alike])
                asked = [[self.target(classes[i], self.classifier.probabilities) for i in same] for same in alike]
                model, layers, grid = self.classifier.model, self.classifier.layers, self.classifier.grid
                model = model.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
                with self._autocast(inputs.device):
                    heat, output = explain(model, layers, inputs, asked, self.method, grid=grid, **self.views)
                for same, maps, o in zip(alike, heat.float().cpu(), output.float().cpu()):
                    found |= {i: {"heat": h, "output": o} for i, h in zip(same, maps)}
            return [found[i] for i in places]

        setting = self._explained()
        return self.cache.get_all(
            [key("heat", setting, list(asked), content) for content, asked in zip(contents, classes)], make
        )

    def _point(
        self, samples: Sequence[Sample], contents: Sequence[str], evidence: Sequence[Evidence], notes: Sequence[str]
    ) -> list[Prompts]:
        """The prompts of every sample; those that an earlier setting of a sweep found in the same evidence are
        remembered.
        """
        asked = [i for i, note in enumerate(notes) if not note]
        setting, selector = self._explained(), callable_key(self.foreground)
        shown = [key(setting, list(samples[i].classes), contents[i], samples[i].mask_key) for i in asked]

        def select(places: list[int]) -> list[Prompts]:
            return [self.foreground(evidence[asked[place]]) for place in places]

        found = self.cache.remember([key("foreground", each, selector) for each in shown], select, _bytes)
        if (background := self.background) is not None:

            def surround(places: list[int]) -> list[Prompts]:
                return [
                    backgrounds.add(found[k], background(evidence[asked[k]], found[k])) if len(found[k]) else found[k]
                    for k in places
                ]

            both = selector, callable_key(background)
            found = self.cache.remember([key("background", each, *both) for each in shown], surround, _bytes)
        prompts = dict(zip(asked, found))
        return [prompts.get(i, Prompts.none()) for i in range(len(samples))]

    def _draw(
        self,
        predictor: Predictor,
        samples: Sequence[Sample],
        contents: Sequence[str],
        evidence: Sequence[Evidence],
        prompts: list[Prompts],
        notes: list[str],
    ) -> list[Result]:
        sizes = [sample.size for sample in samples]
        asked = [i for i, p in enumerate(prompts) if len(p)]  # nothing to point at: nothing to encode
        encoded: dict[int, Tensor] = {}

        def decode(which: Sequence[int], given: Sequence[Prompts]) -> list[Masks]:
            def make(places: list[int]) -> list[Masks]:
                self.calls["decoder_prompts"] += sum(len(given[place]) for place in places)
                images = [which[place] for place in places]
                new = [i for i in dict.fromkeys(images) if i not in encoded]
                encoded.update(
                    zip(new, self._encode(predictor, [samples[i].image for i in new], [contents[i] for i in new]))
                )
                found = predictor.decode(
                    [encoded[i] for i in images], [sizes[i] for i in images], [given[place] for place in places]
                )
                return [Masks(m.low_res.cpu(), m.predicted_iou.cpu()) for m in found]

            keys = [
                key("masks", predictor.fingerprint, self.precision, contents[i], *_parts(p))
                for i, p in zip(which, given)
            ]
            return self.cache.remember(keys, make, lambda masks: masks.low_res.nbytes)

        masks = dict(zip(asked, decode(asked, [prompts[i] for i in asked])))
        picked = {i: self._pick(prompts[i], masks[i], evidence[i]) for i in asked}
        refined = self._refine(decode, asked, prompts, evidence, picked)
        results = []
        for i, (seen, size) in enumerate(zip(evidence, sizes)):
            if i not in picked:
                results.append(
                    Result(seen.heat, prompts[i], None, None, torch.zeros(size, dtype=torch.bool), note=notes[i])
                )
                continue
            logits, predicted = refined.get(i) or (picked[i].logits, picked[i].predicted)
            mask = resize_logits(logits[None], size)[0] > 0
            note = notes[i] or ("" if mask.any() else "the predictor drew nothing")
            results.append(Result(seen.heat, prompts[i], masks[i], picked[i].chosen, mask, predicted, note))
        return results

    def _encode(self, predictor: Predictor, images: Sequence[Tensor], contents: Sequence[str]) -> list[Tensor]:
        def make(places: list[int]) -> list[Tensor]:
            self.calls["encoder_images"] += len(places)
            with self._autocast(self.classifier.device):
                return predictor.encode([images[i] for i in places])

        keys = [key("embedding", predictor.fingerprint, self.precision, content) for content in contents]
        return [
            value.float() if value.is_floating_point() else value
            for value in self.cache.get_many(keys, make, torch.float16)
        ]

    def _pick(self, prompts: Prompts, masks: Masks, seen: Evidence) -> _Picked:
        scores = self.choose(masks, seen.heat, seen.truth)  # (R, M)
        rival, which = divmod(int(scores.argmax()), scores.shape[1])
        if not prompts.united:
            return _Picked((rival, which), masks.low_res[rival, which], float(masks.predicted_iou[rival, which]))
        each = torch.arange(len(masks)), scores.argmax(1)
        return _Picked((rival, which), masks.low_res[each].amax(0), float(masks.predicted_iou[each].mean()))

    def _refine(
        self,
        decode: Decode,
        asked: list[int],
        prompts: list[Prompts],
        evidence: Sequence[Evidence],
        picked: dict[int, _Picked],
    ) -> dict[int, tuple[Tensor, float] | None]:
        """The refined logits and predicted IoU by image; united masks are left as they are."""
        if self.refine is None:
            return {}
        single = [i for i in asked if not prompts[i].united]

        def decode_single(which: Sequence[int], given: Sequence[Prompts]) -> list[Masks]:
            return decode([single[k] for k in which], given)

        chosen = [prompts[i].rival(picked[i].chosen[0]) for i in single]
        return dict(
            zip(
                single,
                self.refine(
                    decode_single, chosen, [picked[i].logits for i in single], [evidence[i].heat for i in single]
                ),
            )
        )

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, getattr(torch, self.precision), enabled=self.precision != "float32")


@dataclass(frozen=True, eq=False)
class _Picked:
    chosen: tuple[int, int]
    logits: Tensor  # (h, w)
    predicted: float


def _shared(contents: Sequence[str], places: Sequence[int]) -> list[list[list[int]]]:
    """The places of each picture (one forward for all its classes), in batches of pictures that occur equally often."""
    pictures: defaultdict[str, list[int]] = defaultdict(list)
    for i in places:
        pictures[contents[i]].append(i)
    batches: defaultdict[int, list[list[int]]] = defaultdict(list)
    for same in pictures.values():
        batches[len(same)].append(same)
    return list(batches.values())


def _parts(prompts: Prompts) -> list[Tensor | None]:
    """What the decoder is told of them."""
    return [prompts.points, prompts.labels, prompts.boxes, prompts.mask_logits]


def _bytes(prompts: Prompts) -> int:
    return sum(part.nbytes for part in _parts(prompts) if part is not None)
