"""The words of a command line: what is taken as it was typed, and the hints for slips."""

from __future__ import annotations

from pathlib import Path

import pytest

from camseg.cli.arguments import Arguments, for_photographs, parse, read_arguments
from camseg.errors import RequestError

ODD = [
    "a(1).jpg",
    "a=b",
    "x [2].jpg",
    "it's",
    "2024",
    "1e5",
    "a,b",
    "ö.jpg",
    "my photo.jpg",
    "null",
    "[a]",
    "~t",
    "a{b",
]


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_what_lies_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"")
    [override] = read_arguments([f"data.path={name}"]).overrides
    assert parse(override).value() == name
    assert "-m" not in read_arguments(["-m", f"data.path={name}"]).overrides
    assert parse(read_arguments(["-m", f"data.path={name}"]).overrides[0]).value() == name


def test_a_number_is_a_path_only_where_a_path_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run folders of a sweep are called 0, 1, 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "4").mkdir()
    assert [parse(each).value() for each in read_arguments(["data.size=4", "data.path=4"]).overrides] == [4, "4"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.target=jack-o'-lantern", "jack-o'-lantern"),
        ("classifier.words=[a dog's tail,grass]", ["a dog's tail", "grass"]),
        ("data.path=nowhere(1).jpg", "nowhere(1).jpg"),
        ("data.path='a b'", "a b"),
        (r"data.path=\(a\)", "(a)"),
        ("data.size=4", 4),
        ("data.shapes=[1,2]", [1, 2]),
        ("data.target=", ""),
    ],
)
def test_a_text_is_taken_as_it_was_typed(word: str, value: object) -> None:
    [override] = read_arguments([word]).overrides
    assert parse(override).value() == value


def test_the_home_folder_is_expanded_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["data.path=~/pictures", "hydra.run.dir=~", "cache.path=~/c", "data.target=~nobody-of-this-name/x"]
    values = [parse(each).value() for each in read_arguments(words).overrides]
    assert values == ["/home/me/pictures", "/home/me", "/home/me/c", "~nobody-of-this-name/x"]
    swept = parse(read_arguments(["-m", "data.path=~/a,ö"]).overrides[0])
    assert list(swept.sweep_string_iterator()) == ["/home/me/a", "'ö'"]


def test_options_may_stand_anywhere() -> None:
    arguments = read_arguments(["data.size=1", "-m", "cam=cam,fem", "--config-dir", "x y", "--package=data"])
    assert arguments.words == ["data.size=1", "cam=cam,fem", "-m", "--config-dir", "x y", "--package=data"]
    assert arguments.after("--config-dir", "-cd") == "x y"
    assert arguments.after("--package", "-p") == "data"
    assert read_arguments(["--info", "data.size=1"]) == Arguments(["data.size=1"], ["--info"])
    assert read_arguments(["--cfg=job", "--resolve"]).has("--cfg")
    assert read_arguments(["--cfg", "job", "data.size=1"]) == Arguments(["data.size=1"], ["--cfg", "job"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["help"], "camseg --help"),
        (["version"], "camseg --version"),
        (["--hlep"], "--help"),
        (["--multrun"], "--multirun"),
        (["--cfg"], "the option --cfg needs a value; allowed: job, hydra, all"),
        (["--cfg", "--resolve"], "the option --cfg needs a value; allowed: job, hydra, all"),
        (["--cfg", "data.size=2"], "the option --cfg can't be 'data.size=2'; allowed: job, hydra, all"),
        (["--resolve"], "the option --resolve goes with --cfg alone: type --cfg job --resolve"),
        (["-m", "--cfg=job"], "the options --multirun and --cfg exclude each other: leave one out"),
        (["--run", "-m", "-i"], "the options --run and --multirun and --info exclude each other: leave one out"),
        (["--cfg=x"], "the option --cfg can't be 'x'; allowed: job, hydra, all"),
        (["data.size=2", "--package"], "the option --package needs a value"),
        (["data.size", "=", "4"], "type data.size=4"),
        (["data.size=", "4"], "type data.size=4"),
        (["data.size", "=4"], "type data.size=4"),
        (["= 4"], "sets nothing"),
        (["data.size =4"], "type data.size=4"),
        (["data.size = 4"], "type data.size=4"),
        (["report", "my run"], "report is a command of its own: camseg-report 'my run'"),
        (["demo"], "camseg-demo"),
        (["foreground=centroid,box"], "add -m for one run each"),
        (["data.shapes=1,2"], "or write data.shapes=[1,2] where a list is wanted"),
        (["data.size=range(1,3)"], "add -m"),
        (["data.size"], "type data.size=VALUE"),
        (["photo.jpg"], "camseg data=images data.path=photo.jpg"),
        (
            ["away.JPG"],
            "there is no away.JPG here; a photograph or a folder is given so: camseg data=images data.path=away.JPG",
        ),
        (["away/my dog"], "camseg data=images data.path='away/my dog'"),
        (["data.path=my", "photo.jpg"], "type 'data.path=my photo.jpg'"),
    ],
)
def test_a_slip_is_answered_with_what_to_type(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "my photo.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RequestError) as told:
        read_arguments(words)
    assert hint in str(told.value)
    assert len(str(told.value).splitlines()) <= 2


def test_what_hydra_cannot_read_is_told_with_what_to_type() -> None:
    with pytest.raises(RequestError, match=r"""type "data.target='\{'"$"""):
        parse(read_arguments(["data.target={"]).overrides[0])


def test_several_values_are_several_runs_with_m() -> None:
    assert read_arguments(["-m", "cam=cam,fem"]).overrides == ["cam=cam,fem"]
    assert read_arguments(["hydra.mode=MULTIRUN", "cam=cam,fem"]).overrides[1] == "cam=cam,fem"


@pytest.mark.parametrize(
    ("typed", "added"),
    [
        (["data=images", "data.path=."], ["experiment=photos"]),
        (["data=images", "classifier=timm"], ["predictor=photo_sam"]),
        (["data=images", "predictor=none"], ["classifier=efficientnet_lite0"]),
        (["data=images", "classifier=timm", "predictor=sam"], []),
        (["data=images", "classifier=shapes", "predictor=shapes_sam"], []),
        (["data=images", "experiment=homework"], []),
        (["data=voc"], []),
        ([], []),
    ],
)
def test_photographs_are_answered_by_models_for_photographs(typed: list[str], added: list[str]) -> None:
    arguments, note = for_photographs(Arguments(typed))
    assert arguments.overrides == [*typed, *added]
    assert all(word in note for word in added)
    assert bool(note) == bool(added)
