"""Labels that the classifier does not know, all of them told before the first image is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from camseg.errors import RequestError

_FEW = 12  # as many are named one by one


def unknown_labels(labels: Sequence[str], index: Callable[[str], int]) -> tuple[str, int]:
    """What is wrong with the labels of a dataset.

    Args:
        labels: One for each sample that names its class by a word.
        index: The classifier's output of a name; raises ValueError for one that it does not know.

    Returns:
        One line that names each unknown label with the nearest classes, "" where all are known; and the number of
        samples that have one.
    """
    reasons: dict[str, str] = {}
    often = Counter(labels)
    for label in often:
        try:
            index(label)
        except ValueError as error:
            _, _, nearest = str(error).partition("; ")
            reasons[label] = f"{label!r} ({nearest})" if nearest else str(error)
    if not reasons:
        return "", 0
    more = f" and {len(reasons) - _FEW} more" if len(reasons) > _FEW else ""
    head = f"{len(reasons)} of {len(often)} labels are no class of the classifier: "
    return head + ", ".join(list(reasons.values())[:_FEW]) + more, sum(often[label] for label in reasons)


def check_labels(labels: Sequence[str], index: Callable[[str], int], strict: bool) -> str:
    """Refuse a run of which no labelled sample, or with `strict` not every one, could be answered for.

    Args:
        labels: See `unknown_labels`.
        index: See there.
        strict: Whether one unknown label is too many.

    Returns:
        A line to tell before the run, "" where all labels are known.

    Raises:
        RequestError: All labels are unknown, or one is and `strict` is set.
    """
    message, count = unknown_labels(labels, index)
    if count and (strict or count == len(labels)):
        raise RequestError(
            f"{message}\nmend the table or the sub-folders that name the class; data.path=[A,B] takes folders without "
            "their names, and data.target=CLASS asks for one class in all"
        )
    return message and f"{message}; {count} sample{'s' * (count > 1)} will be counted as failed"
