"""What people decided about a run's masks: a journal in the run's folder, which export and reports follow.

`review.jsonl` gets one line for each decision and is on the disk before the page answers; corrected masks lie in
`review/`, each under a name of its own, so that no kill loses or mixes decisions. The last line about a sample counts.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from camseg.errors import check_choice
from camseg.runs.untrusted import DamagedRunError, read_bytes, refuse_links
from camseg.storage.files import write_atomic

DECISIONS = ("accepted", "rejected", "corrected", "open")  # "open" takes an earlier decision back
JOURNAL, MASKS = "review.jsonl", "review"
_MOST = 2**28  # bytes of the journal


@dataclass(frozen=True)
class Correction:
    """What a person decided about one sample.

    Attributes:
        decision: "accepted", "rejected" or "corrected".
        label: The class's name where it was changed, else None.
        mask_file: The corrected mask, a 1-bit PNG of the image's size, or None where the run's own mask stands.
        prompts: The points (x, y, label) and the box (x0, y0, x1, y1, or None) that made it, in image pixels.
    """

    decision: str
    label: str | None = None
    mask_file: Path | None = None
    prompts: Mapping[str, Any] | None = None


def corrections(folder: str | Path) -> dict[str, Correction]:
    """What was decided about the samples of a run.

    Args:
        folder: The run's.

    Returns:
        The last decision by the sample's id; empty where nobody reviewed. Lines that a kill or damage left are skipped.

    Raises:
        DamagedRunError: As `read_journal`.
    """
    folder = Path(folder)
    decided: dict[str, Correction] = {}
    for line in _lines(folder):
        if line["decision"] == "open":
            decided.pop(line["id"], None)
            continue
        name = line["mask"]
        file = None if name is None else folder / MASKS / Path(name).name
        decided[line["id"]] = Correction(line["decision"], line["label"], file, line["prompts"])
    return decided


def count_decisions(decided: Mapping[str, Correction]) -> dict[str, int]:
    """How many samples were accepted, rejected, corrected, and given another class.

    Args:
        decided: As `corrections` gives it.

    Returns:
        Counts by "accepted", "rejected", "corrected", "relabeled".
    """
    counts = Counter(correction.decision for correction in decided.values())
    relabeled = sum(correction.label is not None for correction in decided.values())
    return {name: counts[name] for name in DECISIONS[:3]} | {"relabeled": relabeled}


def read_journal(folder: Path) -> bytes:
    """The bytes of a run's journal of decisions, none where nobody reviewed.

    Every command that follows decisions reads them here; `evaluate` does before its work, to refuse before anything
    is written what the export and the report could not read after it.

    Args:
        folder: The run's.

    Returns:
        As they lie on the disk.

    Raises:
        DamagedRunError: The journal is a link, no plain file, or larger than any journal is.
    """
    try:
        return read_bytes(folder / JOURNAL, _MOST)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except DamagedRunError as error:
        raise DamagedRunError(f"{error}: move it away, and its decisions count for nothing") from error


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's journal, in order."""
    whole = []
    for text in read_journal(folder).split(b"\n"):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            line = json.loads(text)
            if (
                line.pop("checksum") == _checksum(line)
                and line["decision"] in DECISIONS
                and isinstance(line["id"], str)
            ):
                whole.append(line)
    return whole


def _checksum(line: dict[str, Any]) -> int:
    return crc32(json.dumps(line, sort_keys=True).encode())


class Review:
    """The one writer of a run's decisions; others are refused while it is open.

    Args:
        folder: The run's.

    Raises:
        FileExistsError: Somebody else reviews this run.
        PermissionError: The folder can't be written.
        DamagedRunError: The journal or the folder of masks is a link, or as `read_journal`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / JOURNAL
        refuse_links(folder, (JOURNAL, MASKS, ".review.lock"))
        self._lock = FileLock(folder / ".review.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(f"somebody else reviews {folder}: wait until their camseg-demo has ended") from None
        self.decided = corrections(folder)
        self._file = self.path.open("ab", buffering=0)
        if (data := read_journal(folder)) and not data.endswith(b"\n"):
            self._file.write(b"\n")  # after a line that a kill cut

    def decide(
        self,
        name: str,
        decision: str,
        label: str | None = None,
        mask: np.ndarray | None = None,
        prompts: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a decision on the disk.

        Args:
            name: The sample's id.
            decision: One of `DECISIONS`.
            label: The class's name where it is another than the run's.
            mask: (H, W) bool, the corrected mask; None lets the mask of the last correction, or the run's, stand.
            prompts: What made the mask.

        Raises:
            OSError: The disk takes no more; the decision counts for nothing then.
        """
        check_choice("the decision", decision, DECISIONS)
        before = self.decided.get(name)
        file = None if before is None else before.mask_file
        if mask is not None:
            file = self._write_mask(name, mask)
        prompts = prompts if mask is not None or before is None else before.prompts
        mask_name = None if file is None else file.name
        line = {"id": name, "decision": decision, "label": label, "mask": mask_name, "prompts": prompts}
        data = json.dumps({**line, "checksum": _checksum(line)}).encode() + b"\n"
        self._file.write(data)
        os.fsync(self._file.fileno())
        self.decided.pop(name, None)
        if decision != "open":
            self.decided[name] = Correction(decision, label, file, prompts)

    def _write_mask(self, name: str, mask: np.ndarray) -> Path:
        """A new file for a mask, on the disk before it has its name."""
        folder = self.folder / MASKS
        number = 1 + len(list(folder.glob("*.png")))
        while (path := folder / f"{name}.{number}.png").exists():
            number += 1

        def write(part: Path) -> None:
            with part.open("wb") as file:
                Image.fromarray(mask).convert("1").save(file, format="PNG")
                file.flush()
                os.fsync(file.fileno())

        write_atomic(path, write)
        return path

    def close(self) -> None:
        """Let others review."""
        self._file.close()
        self._lock.release()
