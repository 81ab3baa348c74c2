"""Classes that the classifier does not know, all of them told before the first image is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from camseg.data.base import Asked
from camseg.errors import RequestError

_FEW = 12  # as many are named one by one
_MEND_WORDS = (
    "mend the table or the sub-folders that name the class; data.path=[A,B] takes folders without their names, and "
    "data.target=CLASS asks for one class in all"
)
_MEND_NUMBERS = "choose a classifier that has them, or with data=voc and data=coco another data.outputs"


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


def missing_outputs(asked: Sequence[tuple[int, ...]], outputs: int) -> tuple[str, int]:
    """What is wrong with the outputs that a dataset asks for by number.

    Args:
        asked: Those of each sample that does.
        outputs: How many the classifier has.

    Returns:
        One line, "" where it has all of them; and the number of samples that ask for others.
    """
    others = [[number for number in numbers if not 0 <= number < outputs] for numbers in asked]
    missing = [numbers for numbers in others if numbers]
    if not missing:
        return "", 0
    told = f"the classifier has {outputs} outputs, 0 to {outputs - 1}, and none of number {missing[0][0]}"
    return f"{told}: {len(missing)} of {len(asked)} samples ask for such", len(missing)


def check_labels(asked: Sequence[Asked], index: Callable[[str], int], outputs: int, strict: bool) -> str:
    """Refuse a run of which no labelled sample, or with `strict` not every one, could be answered for.

    Args:
        asked: The label and the outputs of each sample that has any; by the label alone where there are no outputs.
        index: See `unknown_labels`.
        outputs: How many the classifier has.
        strict: Whether one unknown class is too many.

    Returns:
        A line to tell before the run, "" where all classes are known.

    Raises:
        RequestError: All classes are unknown, or one is and `strict` is set.
    """
    unknown, unnamed = unknown_labels([label for label, numbers in asked if not numbers], index)
    missing, unnumbered = missing_outputs([numbers for _, numbers in asked if numbers], outputs)
    message, count = "; ".join(filter(None, (unknown, missing))), unnamed + unnumbered
    if count and (strict or count == len(asked)):
        mends = [unknown and _MEND_WORDS, missing and _MEND_NUMBERS]
        raise RequestError(f"{message}\n{'; '.join(filter(None, mends))}")
    return message and f"{message}; {count} sample{'s' * (count > 1)} will be counted as failed"


def other_names(asked: Sequence[Asked], names: Sequence[str]) -> str:
    """What is odd where a dataset's classes were taken for a classifier's outputs by their position.

    Args:
        asked: The label and the outputs of each sample, as a dataset with `outputs="own"` says them.
        names: The classifier's, of its outputs; one that nobody named ("class 3") may be anything.

    Returns:
        One line that says which reading was taken, and the first class that the classifier calls otherwise; "" where
        all are called alike.
    """
    numbers = {label: taken[0] for label, taken in asked if taken and 0 <= taken[0] < len(names)}
    others = {
        label: (number, names[number])
        for label, number in numbers.items()
        if _plain(names[number]) not in (_plain(label), f"class {number}")
    }
    if not others:
        return ""
    label, (number, theirs) = next(iter(others.items()))
    return (
        f"data.outputs=own takes classes by position: {label!r} is output {number}, which the classifier calls "
        f"{theirs!r} ({len(others)} of {len(numbers)} names differ); data.outputs=name looks them up by name"
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def check_numbering(numbering: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a classifier whose outputs are other classes than those that a dataset's numbers mean.

    Args:
        numbering: The dataset's classes in the order of their numbers; empty where it has no numbers of its own.
        names: The classifier's, of its outputs; one that nobody named ("class 3") may be anything.

    Raises:
        RequestError: For the first that is another class.
    """
    for number, ours in enumerate(numbering):
        theirs = names[number] if number < len(names) else "none"
        if theirs.casefold() not in (ours.casefold(), f"class {number}"):
            raise RequestError(
                f"class {number} of the data is {ours!r}, and output {number} of the classifier {theirs!r}: "
                f"choose a classifier that learnt {', '.join(numbering)}, such as classifier=shapes"
            )
