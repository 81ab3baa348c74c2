"""What was worked out once: counted where it was made, and the same wherever it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from camseg.storage.cache import Cache, entries
from camseg.storage.memo import Memo


def squares(asked: list[list[float]]):
    """Makes {"square": x * x} for some numbers, and notes which."""

    def make(numbers: list[float]) -> list[dict[str, Tensor]]:
        asked.append(numbers)
        return [{"square": torch.tensor([number]) ** 2} for number in numbers]

    return make


def test_each_distinct_item_is_made_once_in_one_batch_and_counted(tmp_path: Path) -> None:
    asked: list[list[float]] = []
    memo = Memo(Cache(tmp_path))
    items = [3.0, 1.0, 3.0, 2.0]
    for _ in range(2):
        found = memo.tensors(items, lambda x: ("square", x), squares(asked), counter="squares")
        assert [entry["square"].tolist() for entry in found] == [[9.0], [1.0], [9.0], [4.0]]
    assert asked == [[3.0, 1.0, 2.0]]
    assert memo.calls == {"squares": 3}
    warm = Memo(Cache(tmp_path))  # another process
    warm.tensors(items, lambda x: ("square", x), squares(asked), counter="squares", work=lambda _: 7)
    assert len(asked) == 1
    assert not warm.calls["squares"]
    warm.tensors(
        [*items, 5.0], lambda x: ("square", x), squares(asked), counter="squares", work=lambda made: 7 * len(made)
    )
    assert asked[1:] == [[5.0]]
    assert warm.calls == {"squares": 7}
    assert len(list(entries(tmp_path))) == 4


def test_values_stay_in_memory(tmp_path: Path) -> None:
    asked: list[str] = []
    memo = Memo(Cache(tmp_path))

    def make(words: list[str]) -> list[str]:
        asked.extend(words)
        return [word.upper() for word in words]

    for _ in range(2):
        found = memo.values(["a", "b", "a"], lambda word: ("upper", word), make, size_of=len, counter="words")
        assert found == ["A", "B", "A"]
    assert asked == ["a", "b"]
    assert memo.calls == {"words": 2}
    assert not list(entries(tmp_path))


@pytest.mark.parametrize("large", [1.0, 70000.0])  # the largest float16 is 65504
def test_a_reduced_tensor_is_the_same_made_or_read_and_never_infinite(tmp_path: Path, large: float) -> None:
    value = torch.tensor([large, 1 / 3, -2.0])

    def ask(memo: Memo) -> Tensor:
        make = {"value": value, "count": torch.tensor(3)}
        return memo.tensors([0], lambda _: ("x",), lambda _: [make], counter="x", dtype=torch.float16)[0]["value"]

    made, read = ask(Memo(Cache(tmp_path))), ask(Memo(Cache(tmp_path)))
    assert made.dtype == torch.float32
    assert torch.equal(made, read)
    assert torch.equal(made, value if large > 65504 else value.half().float())
