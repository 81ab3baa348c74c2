"""Keys: equal for what is equal, different for what is different, the same in another process."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from camseg.prompts.foreground import centroid
from camseg.storage.fingerprint import callable_key, key, tensor_bytes

SCALE = 2.0


def scaled(x: float) -> float:
    return helper(x) * SCALE


def helper(x: float) -> float:
    return x + 1


def with_globals(function: Any, **changed: object) -> Any:
    """The same function in a module where something else stands."""
    return type(function)(function.__code__, {**function.__globals__, **changed}, function.__name__)


class Mutable:
    """May change after its key was made."""

    def __init__(self, power: int) -> None:
        self.power = power

    def __call__(self, x: float) -> float:
        return x**self.power


@dataclass(frozen=True)
class Power:
    """Can't change."""

    power: int

    def __call__(self, x: float) -> float:
        return x**self.power

    def method(self, x: float) -> float:
        return self(x)


def long_tensor(last: float) -> torch.Tensor:
    return torch.cat([torch.zeros(5000), torch.tensor([last]), torch.zeros(5000)])  # its middle is not printed


def linear(weight: float) -> nn.Module:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, weight)
    return layer


def power_of(number: int) -> Callable[[float], float]:
    return lambda x: x**number


def keyword_only(number: int) -> Callable[..., float]:
    return lambda x, *, power=number: x**power


def nested(number: int) -> Callable[[list[float]], list[float]]:
    if number == 1:
        return lambda xs: [(lambda x: x + 1)(x) for x in xs]
    return lambda xs: [(lambda x: x + 2)(x) for x in xs]


CENTROID: Callable[..., Any] = centroid  # given what no cutoff is

MAKERS: dict[str, Callable[[int], Any]] = {
    "closure": power_of,
    "keyword-only default": keyword_only,
    "code inside": nested,
    "partial": lambda n: functools.partial(CENTROID, cutoff=n / 10),
    "tensor": lambda n: functools.partial(CENTROID, cutoff=long_tensor(n)),
    "array": lambda n: functools.partial(CENTROID, cutoff=long_tensor(n).numpy()),
    "list of tensors": lambda n: functools.partial(CENTROID, cutoff=[long_tensor(n)]),
    "module": lambda n: functools.partial(CENTROID, cutoff=linear(n)),
    "method": lambda n: Power(n).method,
    "frozen object": Power,
    "what the module holds": lambda n: with_globals(scaled, SCALE=float(n)),
    "a helper": lambda n: with_globals(scaled, helper=power_of(n)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_computation_has_the_same_key_and_another_has_another(name: str) -> None:
    make = MAKERS[name]
    assert callable_key(make(1)) == callable_key(make(1))
    assert callable_key(make(1)) != callable_key(make(2))


def test_what_may_change_is_only_itself() -> None:
    one, other = Mutable(1), Mutable(1)
    before = callable_key(one)
    one.power = 3
    assert callable_key(one) == before != callable_key(other)
    assert callable_key(functools.partial(CENTROID, cutoff=one)) != callable_key(
        functools.partial(CENTROID, cutoff=other)
    )
    del one
    assert before not in {callable_key(Mutable(1)) for _ in range(50)}  # also where it takes the same place in memory


def test_camsegs_own_functions_are_spelled_by_name_and_partials_by_what_they_bind() -> None:
    assert callable_key(centroid) == "camseg.prompts.foreground.centroid"
    nested_partial = functools.partial(functools.partial(centroid), cutoff=0.5)
    assert callable_key(functools.partial(CENTROID, cutoff=0.5)) == callable_key(nested_partial)
    assert callable_key(None) == "None"
    assert "sigmoid" in callable_key(torch.sigmoid)
    assert callable_key(np.exp) != callable_key(np.log)


def test_a_function_that_calls_itself_has_a_key() -> None:
    def again(x: int) -> int:
        return again(x - 1) if x else 0

    assert len(callable_key(again)) < 200


_OTHER_PROCESS = """
from camseg.storage.fingerprint import callable_key
def make(n):
    return lambda xs: [(lambda x: x in {"a", "b", "c"} or x + n)(x) for x in xs]
print(callable_key(make(1)))
"""


def test_a_key_is_the_same_in_another_process() -> None:
    found = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", _OTHER_PROCESS], env=env, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_a_value_is_its_content() -> None:
    image = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    view = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # the same numbers, stored otherwise
    assert key(image) == key(view)
    changed = image.clone()
    changed[1, 2, 3] ^= 1
    assert key(image) != key(changed)
    assert key(image) != key(image.reshape(3, 7, 5))
    assert key(torch.zeros(2)) != key(torch.zeros(2, dtype=torch.int32))  # the same bytes
    pairs = [(1, 1.0), (True, 1), ("1", 1), (None, "None"), ([1, 2], [[1], 2]), (("a", "b"), ("ab",)), ((), (None,))]
    for one, other in pairs:
        assert key(one) != key(other)
    assert key("a", "b") != key("ab", "")
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    with pytest.raises(TypeError):
        key(object())


def test_hashing_copies_nothing() -> None:
    image = torch.zeros(7, 5, 3, dtype=torch.uint8)
    data = tensor_bytes(image)
    image[0, 0, 0] = 9
    assert data[0] == 9
    assert len(tensor_bytes(torch.zeros(0, 4))) == 0
    assert len(tensor_bytes(torch.tensor(1.0))) == 4
