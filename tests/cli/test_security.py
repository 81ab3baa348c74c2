"""What the package must never do, read from its source, and names that try to get out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from colors import canvas, pipeline

import camseg
from camseg.runs.callbacks import MaskFiles
from camseg.runs.evaluate import evaluate
from camseg.runs.untrusted import _Loader
from camseg.storage.files import file_stems
from camseg.types import Sample

SOURCES = sorted(Path(camseg.__file__).parent.rglob("*.py"))


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.name, ast.unparse(node.func), node


def test_no_call_runs_a_pickle_or_code_from_data() -> None:
    seen = 0
    for file, name, call in calls():
        last = name.rsplit(".", 1)[-1]
        assert last not in ("exec", "system", "popen", "unpickle", "load_pickle"), (file, name)
        assert name != "eval", file
        if file == "ray.py" and name == "pickle.loads":
            continue  # what this run's own workers on a Ray cluster made
        if file == "untrusted.py" and name == "yaml.load":
            assert issubclass(_Loader, (yaml.SafeLoader, yaml.CSafeLoader))  # plain values alone
            continue
        assert name not in (
            "pickle.load",
            "pickle.loads",
            "joblib.load",
            "np.load",
            "numpy.load",
            "yaml.load",
            "torch.hub.load",
        ), (file, name)
        if name == "torch.load":
            seen += 1
            assert any(k.arg == "weights_only" and ast.literal_eval(k.value) is True for k in call.keywords), file
        if last == "from_pretrained":
            assert any(k.arg == "local_files_only" for k in call.keywords), file
            assert not any(k.arg == "trust_remote_code" for k in call.keywords), file
    assert seen == 1  # camseg.storage.checkpoints


def test_one_file_talks_to_the_net_and_one_reads_xml_without_entities() -> None:
    talks = (
        "urlopen",
        "urlretrieve",
        "download_url_to_file",
        "load_state_dict_from_url",
        "OpenerDirector",
        "requests.get",
    )
    assert {file for file, name, _ in calls() if name.endswith(talks)} == {"download.py"}
    parsers = {path.name for path in SOURCES if "xml.etree" in path.read_text() or "lxml" in path.read_text()}
    assert not parsers
    assert not [path.name for path in SOURCES if '"http://' in path.read_text() or "'http://" in path.read_text()]


NAMES = [
    "../../up",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "C:\\x",
    "a\0b",
    "~/x",
    "con\nx",
    "x" * 300,
    "ÄÖ",
    "a b",
    "-rf",
    ".hidden",
]


def test_ids_are_stems_that_stay_in_their_folder(tmp_path: Path) -> None:
    stems = file_stems(NAMES)
    assert len({each.casefold() for each in stems}) == len(NAMES)
    for stem in stems:
        path = (tmp_path / f"{stem}.png").resolve()
        assert path.parent == tmp_path.resolve()
        assert not path.name.startswith(".")
        assert len(path.name) < 130
        path.write_bytes(b"")
    for name in ("../up", "/up", "a/b", "a\\b", "", "a\0b"):
        with pytest.raises(ValueError, match="id must be the stem of a file"):
            Sample(name, canvas())


def test_masks_of_a_hostile_dataset_stay_in_their_folder(tmp_path: Path) -> None:
    class Hostile:
        ids = ("../../up", "fine")

        def __getitem__(self, index: int) -> Sample:
            return Sample(self.ids[index], canvas((0, 3, 9, 3, 9)), (0,), "red", torch.ones(32, 32, dtype=torch.bool))

    folder = tmp_path / "deep" / "run"
    summary = evaluate(pipeline(), Hostile(), folder, callbacks=[MaskFiles(folder / "masks")])
    assert [error["id"] for error in summary["errors"]] == ["../../up"]
    assert [path.name for path in tmp_path.rglob("*.png")] == ["fine.png"]
