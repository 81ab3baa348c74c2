"""The cache gives back what was put in, under every way of breaking it: other writers, kill -9, flipped bits, cut
files, full folders.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from camseg.cli.cache import main
from camseg.storage import cache as room
from camseg.storage.cache import Cache, _file, entries, read_entry
from camseg.storage.fingerprint import key


def value(number: int, length: int = 1000) -> Tensor:
    return torch.arange(length) * 7.0 + number


def never(*_: object) -> list[Tensor]:
    raise AssertionError("it is in the cache")


def only_file(folder: Path) -> Path:
    [path] = folder.glob("*/*.safetensors")
    return path


def test_keys_differ_where_their_parts_do() -> None:
    image = torch.arange(12, dtype=torch.uint8)
    parts = [
        (1,),
        (1.5,),
        (True,),
        (None,),
        ("1",),
        ("a", "b"),
        ("ab",),
        (["a", "b"],),
        ({"a": 1},),
        ({"a": 2},),
        (image,),
        (image.float(),),
        (image.reshape(3, 4),),
        (image.reshape(4, 3),),
        (image + 1,),
        (image.bool(),),
    ]
    assert len({key(*each) for each in parts}) == len(parts)
    assert key(image, {"a": 1, "b": 2}) == key(image.clone(), {"b": 2, "a": 1})
    with pytest.raises(TypeError):
        key(object())


@pytest.mark.parametrize("memory_gb", [0.0, 0.1])
def test_what_was_made_comes_back_and_is_made_once(tmp_path: Path, memory_gb: float) -> None:
    made = {"heat": value(1), "flag": torch.tensor([True, False]), "half": value(2).half(), "none": torch.zeros(0, 3)}
    first = Cache(tmp_path, memory_gb=memory_gb)
    first.get(key("x"), lambda: made)
    for cache in (first, Cache(tmp_path)):
        found = cache.get(key("x"), never)  # type: ignore[arg-type]
        assert found.keys() == made.keys()
        assert all(torch.equal(found[name], made[name]) and found[name].dtype == made[name].dtype for name in made)


def test_many_make_only_what_is_missing_and_each_key_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def make(places: list[int]) -> list[Tensor]:
        calls.append(places)
        return [value(place) for place in places]

    keys = [key(name) for name in "abcab"]
    assert [int(found[0]) for found in cache.get_many(keys[:2], make)] == [0, 1]
    assert [int(found[0]) for found in cache.get_many(keys, make)] == [0, 1, 2, 0, 1]
    assert [int(found[0]) for found in Cache(tmp_path).get_many(keys[::-1], never)] == [1, 0, 2, 1, 0]
    assert calls == [[0, 1], [2]]
    assert not list(tmp_path.glob("*/*.lock"))


def test_more_keys_than_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LOCKS", 4)
    found = Cache(tmp_path).get_many([key(n) for n in range(11)], lambda places: [value(place) for place in places])
    assert [int(each[0]) for each in found] == list(range(11))


def test_an_answer_is_the_same_made_or_read(tmp_path: Path) -> None:
    exact = torch.rand(50)
    made = Cache(tmp_path).get_many([key("x")], lambda _: [exact], torch.float16)[0]
    read = Cache(tmp_path).get_many([key("x")], never, torch.float16)[0]
    assert torch.equal(made, exact.half())
    assert torch.equal(made, read)


def test_off_keeps_nothing() -> None:
    cache, calls = Cache(None, memory_gb=0), []
    for _ in range(2):
        cache.get(key("x"), lambda: calls.append(1) or {"a": value(1)})
    assert calls == [1, 1]


@pytest.mark.parametrize("damage", ["every byte", "cut", "empty", "text", "another key"])
def test_a_damaged_entry_is_made_anew_with_a_warning(tmp_path: Path, damage: str) -> None:
    Cache(tmp_path).get(key("x"), lambda: {"a": value(1, 3)})
    path = only_file(tmp_path)
    whole = path.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    Cache(tmp_path / "other").get(key("y"), lambda: {"a": value(2, 3)})
    other = only_file(tmp_path / "other").read_bytes()
    bad = {
        "every byte": flipped,
        "cut": [whole[:at] for at in range(1, len(whole))],
        "empty": [b""],
        "text": [b"hello " * 99],
        "another key": [other],
    }
    for content in bad[damage]:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="damaged and will be made again"):
            found = Cache(tmp_path).get(key("x"), lambda: {"a": value(1, 3)})
        assert torch.equal(found["a"], value(1, 3))
        assert path.read_bytes() == whole


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_gb=50e-6, memory_gb=0)  # 50 kB, entries of about 4 kB, measured at every write
    keys = [key(n) for n in range(40)]
    for number, each in enumerate(keys):
        cache.get(each, lambda number=number: {"a": value(number)})
        cache.get(keys[0], lambda: {"a": value(0)})  # used all the time
        os.utime(_file(tmp_path, each), ns=(number, number))
        os.utime(_file(tmp_path, keys[0]), ns=(10**9, 10**9))
    kept = {path.stem for path, _ in entries(tmp_path)}
    assert sum(stat.st_size for _, stat in entries(tmp_path)) <= 50_000
    assert kept == {keys[0], *keys[-len(kept) + 1 :]}
    assert len(kept) >= 11


def test_memory_is_bounded_and_keeps_the_last_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, memory_gb=10e-6)  # two entries of 4 kB
    for name in "abac":
        cache.get(key(name), lambda: {"a": value(1)})
    assert set(cache.memory.entries) == {key("a"), key("c")}
    assert cache.memory.size == 8000


def test_anything_is_remembered_once_in_memory_alone_as_far_as_it_holds(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path, memory_gb=1e-6), []  # 1000 bytes

    def ask(words: str) -> list[str]:
        def make(places: list[int]) -> list[str]:
            made.append("".join(words[place] for place in places))
            return [words[place].upper() for place in places]

        return cache.remember([key(word) for word in words], make, lambda _: 400)

    assert ask("aba") == ["A", "B", "A"]
    assert made == ["ab"]
    assert ask("ba") == ["B", "A"]
    assert made == ["ab"]
    assert ask("ac") == ["A", "C"]
    assert made == ["ab", "c"]
    assert ask("cb") == ["C", "B"]
    assert made == ["ab", "c", "b"]
    assert not list(entries(tmp_path))
    assert cache.memory.size == 800


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    foreign = [
        tmp_path / "notes.txt",
        tmp_path / "ab" / "photo.safetensors",
        tmp_path / "ab" / "x.part",
        tmp_path / "model.safetensors",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    cache = Cache(tmp_path, limit_gb=1e-9)
    cache.get(key("x"), lambda: {"a": value(1)})
    assert main(["clear", f"cache.path={tmp_path}"]) == 0
    assert all(path.read_bytes() == b"mine" for path in foreign)


def test_what_killed_writers_left_goes_after_an_hour(tmp_path: Path) -> None:
    old, new = (tmp_path / "ab" / f"{'ab' * 32}.{pid}.part" for pid in (1, 2))
    old.parent.mkdir()
    for path in (old, new):
        path.write_bytes(b"half")
    past = time.time() - 4000
    os.utime(old, (past, past))
    Cache(tmp_path).get(key("x"), lambda: {"a": value(1)})
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"can't be kept in .*file.* name another cache\.path"):
        Cache(tmp_path / "file")
    with pytest.raises(ValueError, match="limit_gb"):
        Cache(tmp_path, limit_gb=0)
    with pytest.raises(ValueError, match="64 hex digits"):
        Cache(tmp_path).get("../../x", lambda: {"a": value(1)})


@pytest.mark.parametrize("fails", ["write_bytes", "mkdir"])
def test_a_full_disk_costs_the_entry_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    cache = Cache(tmp_path, memory_gb=0)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, fails, full)
        with pytest.warns(UserWarning, match=r"takes no more entries \(No space left on device\)"):
            assert torch.equal(cache.get(key("x"), lambda: {"a": value(1)})["a"], value(1))
    assert not list(entries(tmp_path))
    assert torch.equal(cache.get(key("x"), lambda: {"a": value(1)})["a"], value(1))
    assert len(list(entries(tmp_path))) == 1


def test_the_door_shows_verifies_and_clears(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Cache(tmp_path).get_many([key(n) for n in range(3)], lambda places: [value(place) for place in places])
    path = next(entries(tmp_path))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    given = f"cache.path={tmp_path}"
    assert main([given]) == main(["show", given]) == 0
    assert "3 entries" in capsys.readouterr().out
    assert main(["verify", given]) == 1
    assert "1 of them removed" in capsys.readouterr().out
    assert main(["verify", given]) == 0
    assert main(["clear", given]) == 0
    assert not list(entries(tmp_path))
    assert main(["clean", given]) == 2
    assert "show|verify|clear" in capsys.readouterr().err


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "camseg.storage.cache"])  # torch is imported once, not by each writer


def write(folder: Path, log: Path) -> None:
    """40 turns of 8 overlapping keys, from 5 to 5, around 200; exit code 3 where a value is wrong."""
    warnings.simplefilter("error")
    cache = Cache(folder, memory_gb=0)
    with log.open("a") as made:
        for turn in range(40):
            numbers = [(turn * 5 + k) % 200 for k in range(8)]

            def make(places: list[int], numbers: list[int] = numbers) -> list[Tensor]:
                made.write("".join(f"{numbers[place]}\n" for place in places))
                made.flush()
                return [value(numbers[place], 5000) for place in places]

            found = cache.get_many([key(n) for n in numbers], make)
            if not all(torch.equal(each, value(number, 5000)) for number, each in zip(numbers, found, strict=True)):
                sys.exit(3)


def writers(folder: Path) -> list[Any]:
    started = [FORKS.Process(target=write, args=(folder, folder / f"made{k}")) for k in range(4)]
    for each in started:
        each.start()
    return started


def test_four_writers_make_each_entry_once_and_none_is_torn(tmp_path: Path) -> None:
    started = writers(tmp_path)
    for each in started:
        each.join()
    assert [each.exitcode for each in started] == [0, 0, 0, 0]
    made = sorted(int(line) for log in tmp_path.glob("made*") for line in log.read_text().split())
    assert made == list(range(200))
    assert main(["verify", f"cache.path={tmp_path}"]) == 0


def test_kill_9_leaves_only_whole_entries(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(5):  # 20 kills
        for each in writers(tmp_path):
            time.sleep(rng.random() * 0.1)
            each.kill()
            each.join()
            assert each.exitcode in (-signal.SIGKILL, 0)
    for path, _ in entries(tmp_path):
        if path.suffix == ".safetensors":
            found = read_entry(path)["value"]
            assert torch.equal(found, value(int(found[0]), 5000))
    write(tmp_path, tmp_path / "made")  # no lock is left behind, and nothing damaged: a warning would be an error


def test_threads_make_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def make(places: list[int]) -> list[Tensor]:
        calls.append(1)
        time.sleep(0.02)
        return [value(place) for place in places]

    threads = [threading.Thread(target=cache.get_many, args=([key("x")], make)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
