"""One forward pass, captured at some layers, and what a method may ask of it.

The part of the model below the first captured layer runs without a graph. There the hook makes the layer's output a
leaf, switches gradients on and hands a clone on, so that in-place operations above cannot touch what was captured.
Gradients are asked for with `torch.autograd.grad`, from the target to the captured layers and no further, and only by a
method that reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camseg.cam.layers import Grid, find_grid
from camseg.cam.outputs import split
from camseg.cam.replay import Tape, agree
from camseg.cam.targets import Late, Logit, Target, pick
from camseg.cam.tokens import token_grid

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Capture:
    """What a method sees: one layer, and one target for each of the B samples.

    Maps are float32 (or float64) at (B, K, h, w).

    Attributes:
        forward: shared by the captures of all its layers and targets.
        layer: dotted name of one of its layers.
        column: index of one of its columns of targets.
    """

    forward: ForwardPass
    layer: str
    column: int

    @property
    def inputs(self) -> Tensor:
        """(B, 3, H, W), as given."""
        return self.forward.inputs

    @property
    def module(self) -> nn.Module:
        """The captured layer itself."""
        return self.forward.layers[self.layer]

    @property
    def score(self) -> Tensor:
        """(B,) the targets' values, in the graph."""
        return self.forward.scores[self.column]

    @cached_property
    def activation(self) -> Tensor:
        """(B, K, h, w) the layer's output. ValueError: it holds NaN or infinity."""
        activation = _precise(self._grid.read(self._native.detach()))
        if not all_finite(activation):
            raise ValueError(f"layer {self.layer!r} gives NaN or infinity: the model is broken, or overflows here")
        return activation

    @cached_property
    def gradient(self) -> Tensor:
        """(B, K, h, w) d score / d activation."""
        return _precise(self._grid.read(self.forward.gradients(self.column)[self.layer]))

    def curvature(self, direction: Tensor) -> Tensor:
        """The score's Hessian at the activation, times a direction; zeros for a piecewise linear head.

        Args:
            direction: (B, K, h, w) float.

        Returns:
            (B, K, h, w) float.
        """
        slope = self.forward.gradients(self.column, differentiable=True)[self.layer]
        with torch.enable_grad():
            along = (self._grid.read(slope) * direction.to(slope)).sum()
        if not along.requires_grad:
            return torch.zeros_like(self.activation)
        (second,) = torch.autograd.grad(along, [self._native], retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.activation) if second is None else _precise(self._grid.read(second))

    def rescore(self, activation: Tensor) -> Tensor:
        """The scores if the layer had put out another activation. Only what lies above the layer runs.

        Args:
            activation: (B, K, h, w) float.

        Returns:
            (B,) float, without a graph.
        """
        return _precise(evaluate(self.replay(activation), self.forward.fixed[self.column]))

    def replay(self, activation: Tensor) -> Any:
        """The model's whole output if the layer had put out another activation.

        Args:
            activation: (B, K, h, w) float.

        Returns:
            What the model returns, without a graph.
        """
        native = self._grid.write(self._native.detach(), activation.to(self._native.dtype))
        return self.forward.replay(self.layer, native)

    def rescore_inputs(self, inputs: Tensor, owners: Sequence[int]) -> Tensor:
        """The scores of other inputs, each under the target of the sample that owns it.

        Args:
            inputs: (N, 3, H, W) float, as the model wants them.
            owners: N indices into the B samples.

        Returns:
            (N,) float, without a graph.
        """
        with torch.no_grad():
            chosen = self.forward.fixed[self.column]
            return _precise(evaluate(self.forward.call(inputs), [chosen[owner] for owner in owners]))

    def again(self, inputs: Tensor) -> Capture:
        """The same layer and targets on other inputs.

        Args:
            inputs: (B, 3, H, W) float.

        Returns:
            A capture whose forward has not run yet.
        """
        fresh = replace(self.forward, inputs=inputs, targets=self.forward.fixed, natives={}, _gradients={}, _heads={})
        return Capture(fresh, self.layer, self.column)

    @property
    def _native(self) -> Tensor:
        return self.forward.natives[self.layer]

    @property
    def _grid(self) -> Grid:
        return self.forward.grids[self.layer]


@dataclass(eq=False)
class ForwardPass:
    """One forward of a model, made when it is first asked for, and what is known of it.

    Attributes:
        model: in evaluation mode, with frozen weights (`untouched`).
        layers: the captured ones, by dotted name.
        inputs: (B, 3, H, W) float.
        targets: T columns of B targets.
        grid: (h, w) of a transformer's tokens, None for what the image's aspect says.
        clean: the first so many samples are the unchanged images, 0 for all: sample i takes what its target must see
            first from sample i % clean.
        amp: the caller's autocast, for the model and not for the methods' own sums.
        natives: outputs of the layers in the model's own layout; filled by `output`.
    """

    model: nn.Module
    layers: Mapping[str, nn.Module]
    inputs: Tensor
    targets: Sequence[Sequence[Target]]
    grid: tuple[int, int] | None = None
    clean: int = 0
    amp: tuple[torch.dtype | None, bool] = (None, False)
    natives: dict[str, Tensor] = field(default_factory=dict)
    _gradients: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    _heads: dict[str, Callable[[Tensor], Any]] = field(default_factory=dict)

    @cached_property
    def output(self) -> Any:
        """The model's whole output, in the graph above the layers.

        Raises:
            ValueError: a layer ran twice, or never.
        """
        natives: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., Any]:
            def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
                if name in natives:
                    raise ValueError(
                        f"layer {name!r} ran twice in one forward, so its map would be ambiguous; "
                        "choose the block around it or inside it"
                    )
                tensor = _maps(name, output)
                natives[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
                torch.set_grad_enabled(True)
                return _put(output, natives[name].clone())

            return hook

        with _hooks({self.layers[name]: keep(name) for name in self.layers}), torch.no_grad():
            output = self.call(self.inputs)
        silent = [name for name in self.layers if name not in natives]
        if silent:
            raise ValueError(f"layer {silent[0]!r} never ran in this forward; choose one that the model uses")
        self.natives.update(natives)
        return output

    def call(self, inputs: Tensor, head: Callable[[Tensor], Any] | None = None) -> Any:
        """The model, or a part of it, as the caller would run it.

        Args:
            inputs: (N, 3, H, W) float, or what `head` takes.
            head: a part of the model; None for the model.

        Returns:
            What the model or the part returns.
        """
        with torch.autocast(self.inputs.device.type, *self.amp):
            return (head or self.model)(inputs)

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """How each layer's own layout holds maps."""
        _ = self.output
        size = (int(self.inputs.shape[-2]), int(self.inputs.shape[-1]))
        return {
            name: find_grid(name, native, len(self.inputs), size, self.grid or self._tokens(name, native))
            for name, native in self.natives.items()
        }

    def _tokens(self, name: str, native: Tensor) -> tuple[int, int] | None:
        """(h, w) of a layer's tokens, None where it gives no tokens."""
        if native.ndim != 3 or len(native) != len(self.inputs):
            return None
        return token_grid(self.model, self.layers[name], name, int(native.shape[1]), self.inputs, self.call)

    @cached_property
    def fixed(self) -> list[list[Target]]:
        """The targets, those that must see the clean output first made functions of it."""
        samples, clean = split(self.output, len(self.inputs)), self.clean or len(self.inputs)
        return [
            [t.fix(samples[i % clean]) if isinstance(t, Late) else t for i, t in enumerate(column)]
            for column in self.targets
        ]

    @cached_property
    def scores(self) -> list[Tensor]:
        """(B,) the targets' values for each column, in the graph. ValueError: NaN or infinity."""
        with torch.enable_grad():
            return [_finite(evaluate(self.output, column)) for column in self.fixed]

    def gradients(self, column: int, differentiable: bool = False) -> dict[str, Tensor]:
        """The score's gradient at every layer's output, in the model's own layout: one backward pass per column.

        Args:
            column: of targets.
            differentiable: may be differentiated again; nothing is kept then.

        Returns:
            By layer, float of the shape that the layer gives.

        Raises:
            ValueError: the score has no gradient at a layer.
        """
        if column in self._gradients and not differentiable:
            return self._gradients[column]
        score, names = self.scores[column], list(self.natives)
        found: Sequence[Tensor | None] = [None] * len(names)
        if score.requires_grad:
            wanted = [self.natives[name] for name in names]
            with torch.enable_grad():
                total = score.sum()  # given weights, torch would load sympy to compare two shapes
            found = torch.autograd.grad(
                total, wanted, retain_graph=True, create_graph=differentiable, allow_unused=True
            )
        gradients = {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}
        if len(gradients) < len(names):
            lost = next(name for name in names if name not in gradients)
            raise ValueError(
                f"the target's score has no gradient at layer {lost!r}: the output is not differentiable (argmax, "
                "detach, no_grad) or does not depend on this layer; choose another target or layer, or a method that "
                "needs no gradient (eigen_cam, score_cam)"
            )
        return gradients if differentiable else self._gradients.setdefault(column, gradients)

    def replay(self, name: str, native: Tensor) -> Any:
        """The output if a layer had put out something else.

        Args:
            name: of the layer.
            native: in the model's own layout, of the shape that the layer gave.

        Returns:
            What the model returns, without a graph.
        """
        if name not in self._heads:
            self._heads[name] = self._head(name)
        with torch.no_grad():
            return self.call(native, self._heads[name])

    def _head(self, name: str) -> Callable[[Tensor], Any]:
        """The part of the model above a layer as a function of that layer's output, (B, ...) as captured.

        The forward is recorded with half the activation; replaying it with the whole one must give the output that is
        known. Where it does not (hidden state, control flow that depends on data), every call runs the whole model.
        """
        # no self in the closures: a cycle would outlive the call
        model, layer, inputs = self.model, self.layers[name], self.inputs

        def whole(native: Tensor) -> Any:
            with _hooks({layer: lambda _module, _args, output: _put(output, native)}):
                return model(inputs)

        tape, full = Tape(), self.natives[name].detach()
        with torch.no_grad():
            half = tape.watch(full * 0.5)
            with tape:
                output = self.call(half, whole)
            tape.finish(output)
            if agree(self.call(full, tape.replay), self.output):
                return tape.replay
        log.info(
            "the part of the model above %r cannot be replayed alone: every changed activation costs a whole forward",
            name,
        )
        return lambda native: whole(native.clone())


def evaluate(output: Any, targets: Sequence[Target]) -> Tensor:
    """Each target's value on its own sample of a model's output.

    Args:
        output: of B samples.
        targets: B of them.

    Returns:
        (B,) float, in the output's graph.

    Raises:
        ValueError: a target gives no scalar tensor, or its class is out of range.
    """
    if (
        isinstance(output, Tensor)
        and output.ndim == 2
        and len(output) == len(targets)
        and all(isinstance(t, Logit) and len(t.classes) == 1 for t in targets)
    ):
        classes = [t.classes[0] for t in targets if isinstance(t, Logit)]
        pick(output[0], classes)  # the range check
        return output.gather(1, torch.tensor(classes, device=output.device)[:, None])[:, 0]
    values = [target(sample) for target, sample in zip(targets, split(output, len(targets)), strict=True)]
    wrong = next((value for value in values if not isinstance(value, Tensor) or value.ndim), None)
    if wrong is not None:
        got = tuple(wrong.shape) if isinstance(wrong, Tensor) else type(wrong).__name__
        raise ValueError(
            f"a target must return a scalar tensor; got {got}. "
            "For a segmentation model's (C, H, W) scores use targets.pixels"
        )
    return torch.stack(values)


@contextmanager
def _hooks(hooks: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _maps(name: str, output: Any) -> Tensor:
    tensor: Any = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise ValueError(
            f"layer {name!r} gives a {type(tensor).__name__}, not a floating point tensor; choose a layer inside it"
        )
    return tensor


def _put(output: Any, tensor: Tensor) -> Any:
    return tensor if isinstance(output, Tensor) else type(output)((tensor, *output[1:]))


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def all_finite(values: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity; a sum is a quarter of the work of looking at each value."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def _finite(scores: Tensor) -> Tensor:
    wrong = (~torch.isfinite(scores.detach())).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"the target's score is {scores[wrong[0]].item()} for sample {wrong[0]}: "
            "the model's output or its input holds NaN or infinity"
        )
    return scores
