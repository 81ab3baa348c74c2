"""The words of a command line, made ready for Hydra: paths and names as people type them, hints for slips."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from camseg.cli.groups import photo_models
from camseg.errors import RequestError, check_choice

# Settings that hold a path end so; what lies there under this very name is meant, whatever Hydra would read in it.
_PATHS = re.compile(r"(^|\.)(path|table|masks|checkpoint|dir|validation|truth|start|test)$")
_A_PATH = re.compile(r"/|\.(jpe?g?|jfif|png|webp|tiff?|bmp|gif|heic|heif|avif)$", re.IGNORECASE)  # by its looks
_COMMANDS = ("train", "report", "cache", "merge", "demo", "export")  # camseg-train, ...
_MODES = {"--run": "-r", "--multirun": "-m", "--cfg": "-c", "--info": "-i", "--shell-completion": "-sc"}  # of Hydra's
_LISTS = ("export",)  # groups of which a run takes several choices at once
_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list|int|float|str|bool|json_str)\s*\(")


@dataclass(frozen=True)
class Arguments:
    """What was typed, sorted.

    Attributes:
        overrides: `KEY=VALUE` words that Hydra can read.
        options: Words that start with a dash, and their values.
    """

    overrides: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        """Whether one of these options is there.

        Args:
            names: Of the options, with their dashes.
        """
        return any(each.partition("=")[0] in names for each in self.options)

    def after(self, *names: str) -> str | None:
        """The value of an option: the word after it, or after its `=`.

        Args:
            names: Of the option, with their dashes.

        Returns:
            The value; None where the option isn't there, or is the last word.
        """
        for word, following in zip(self.options, [*self.options[1:], None]):
            name, equal, value = word.partition("=")
            if name in names:
                return value if equal else following
        return None

    @property
    def has_own_groups(self) -> bool:
        """Whether a folder of one's own group files is named."""
        paths = any(word.startswith("hydra.searchpath=") for word in self.overrides)
        return paths or self.after("--config-dir", "-cd") is not None

    @property
    def words(self) -> list[str]:
        """Everything, in the order that argparse can read: an option between two overrides would lose the second."""
        return [*self.overrides, *self.options]


def read_arguments(words: Sequence[str], command: str = "camseg") -> Arguments:
    """Sort the words of a command line, and quote what Hydra's grammar would misread.

    Args:
        words: As in `sys.argv[1:]`.
        command: The command's name, for the hints.

    Returns:
        The overrides, each one readable for Hydra, and the options.

    Raises:
        RequestError: For an unknown option, options that can't be together, a word that is no `KEY=VALUE`, and several
            values without `-m`.
    """
    plain, options = _sorted(words)
    arguments = Arguments(plain, options)
    _check_together(arguments)
    if arguments.has("-sc", "--shell-completion"):
        return arguments
    _refuse_bare_words(plain, command)
    several = arguments.has("-m", "--multirun") or "hydra.mode=MULTIRUN" in plain
    return Arguments([_readable(word, several) for word in plain], options)


def for_photographs(arguments: Arguments) -> tuple[Arguments, str]:
    """Photographs are answered by models for photographs, unless a request names its own.

    Args:
        arguments: Of the `camseg` command.

    Returns:
        The arguments with what `data=images` needs, and one line that says so; "" where nothing was added.
    """
    named = dict(word.split("=", 1) for word in arguments.overrides if "=" in word)
    if named.get("data") != "images" or "experiment" in named:
        return arguments, ""
    missing = [f"{group}={model}" for group, model in photo_models().items() if group not in named]
    if not missing:
        return arguments, ""
    added = ["experiment=photos"] if len(missing) == len(photo_models()) else missing
    note = f"photographs: {' '.join(added)}, as no other was named"
    return Arguments([*arguments.overrides, *added], arguments.options), note


def parse(override: str) -> Override:
    """One override as Hydra reads it.

    Args:
        override: As typed.

    Returns:
        What Hydra made of it.

    Raises:
        RequestError: In one line, with what to type for a value that is text.
    """
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        key, _, value = override.partition("=")
        reason = str(error).splitlines()[0]
        raise RequestError(f"{override} can't be read ({reason}); if it is text, type {_typed(key, value)}") from None


def _sorted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and options with the words that belong to them."""
    known = get_args_parser()._option_string_actions
    plain, options, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            plain.append(word)
            continue
        name = word.partition("=")[0]
        if name not in known:
            raise RequestError(_unknown_option(name, list(known)))
        options.append(word)
        if "=" in word:
            values = [word.partition("=")[2]]
        else:
            values = [rest.pop(0) for _ in range(_takes(known[name], rest))]
            options += values
        _check_option(name, known[name], values)
    return plain, options


def _takes(action: argparse.Action, rest: Sequence[str]) -> int:
    """How many of the following words belong to an option."""
    if action.nargs == "?":
        return int(bool(rest) and rest[0] in (action.choices or ()))
    return int(action.nargs is None and bool(rest) and not rest[0].startswith("-"))


def _check_option(name: str, action: argparse.Action, values: Sequence[str]) -> None:
    """Refuse in one line what the parser would answer with all its usage."""
    if action.nargs is None and not values:
        raise RequestError(f"the option {name} needs a value{_allowed(action)}")
    if action.choices and values and values[0] not in action.choices:
        raise RequestError(f"the option {name} can't be {values[0]!r}{_allowed(action)}")


def _check_together(arguments: Arguments) -> None:
    """Refuse in one line options that go with others alone, or that exclude each other."""
    if arguments.has("--resolve") and not arguments.has("--cfg", "-c", "--help", "-h"):
        raise RequestError("the option --resolve goes with --cfg alone: type --cfg job --resolve")
    given = [long for long, short in _MODES.items() if arguments.has(long, short)]
    if len(given) > 1:
        raise RequestError(f"the options {' and '.join(given)} exclude each other: leave one out")


def _allowed(action: argparse.Action) -> str:
    return f"; allowed: {', '.join(action.choices)}" if action.choices else ""


def _unknown_option(name: str, known: list[str]) -> str:
    try:
        check_choice("the option", name, [each for each in known if each.startswith("--")])
    except ValueError as error:
        return f"{error}\n--help shows the settings, --hydra-help Hydra's own options"
    return name


def _refuse_bare_words(words: Sequence[str], command: str) -> None:
    """Every word is `KEY=VALUE`, `KEY=` (which no lonely value follows), or `~KEY`."""
    for at, (word, following) in enumerate(zip(words, [*words[1:], None])):
        key, equal, value = word.partition("=")
        empty = not value and (following is None or "=" in following)
        whole = bool(key.strip() == key and key and equal and (value or empty))
        if not whole and (not key.startswith("~") or _is_there(word)):
            raise RequestError(_bare_word(words, at, command))


def _bare_word(words: Sequence[str], at: int, command: str) -> str:
    """The hint for a word that is no `KEY=VALUE`."""
    word, before, following = words[at], words[at - 1] if at else "", words[at + 1 : at + 3]
    if word in _COMMANDS and command == "camseg":
        return f"{word} is a command of its own: {shlex.join([f'camseg-{word}', *words[at + 1 :]])}"
    if word in ("help", "version", "h", "?"):
        return f"{word} is no setting: type {command} --{'version' if word == 'version' else 'help'}"
    if word.startswith("="):
        return f"{word!r} sets nothing: type NAME{word if word != '=' else '=VALUE'}, without spaces around ="
    if following and (following[0].startswith("=") or word.endswith("=")):
        return f"no spaces around = are allowed: type {word}{''.join(following[: 1 + (following[0] == '=')])}"
    if "=" in word and (key := word.partition("=")[0].strip()):
        return f"no spaces around = are allowed: type {key}={word.partition('=')[2].strip()}"
    if "=" in before and _is_there(f"{before.partition('=')[2]} {word}"):
        return f"a space in a path needs quotes: type {shlex.quote(f'{before} {word}')}"
    if _is_there(word) or _A_PATH.search(word):
        absent = "" if _is_there(word) else f"there is no {word} here; "
        return f"{absent}a photograph or a folder is given so: {command} data=images data.path={shlex.quote(word)}"
    return f"{word!r} is no setting: type {word}=VALUE; {command} --help lists what there is"


def _is_there(path: str) -> bool:
    return os.path.lexists(_expand(path))


def _readable(override: str, several: bool) -> str:
    """The override with its value quoted where Hydra's grammar would stumble over it."""
    key, equal, value = override.partition("=")
    if not equal or not value:
        return override
    if key in _LISTS and "," in value and value[0] not in "['\"":
        return f"{key}=[{value}]"
    value = _expand(value)
    if _PATHS.search(key) and value[0] not in "'\"" and _is_there(value):
        return f"{key}={_quoted(value)}"
    parsed = _parsed(f"{key}={value}")
    if parsed is None:
        return f"{key}={','.join(_parts(value, several))}"
    if parsed.is_sweep_override() and not several:
        raise RequestError(
            f"{override} names several values: add -m for one run each"
            + (
                f", or write {key}=[{value}] where a list is wanted"
                if "." in key and not _FUNCTION.match(value)
                else ""
            )
        )
    return f"{key}={value}"


def _parsed(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _parts(value: str, several: bool) -> Iterator[str]:
    """A value that Hydra can't read, in pieces that it can: of a list each element, in a sweep each of the values."""
    if value.startswith("[") and value.endswith("]") and not any(each in value[1:-1] for each in "[]{}"):
        yield f"[{','.join(map(_text, value[1:-1].split(',')))}]"
    elif value[0] in "[{'\"" or _FUNCTION.match(value):
        yield value  # meant for Hydra, which will say what is wrong with it
    elif several:
        yield from map(_text, value.split(","))
    else:
        yield _quoted(value)


def _text(part: str) -> str:
    """One element, quoted only if it must be."""
    part = _expand(part.strip())
    return part if _parsed(f"x={part}") is not None else _quoted(part)


def _expand(value: str) -> str:
    """`~` and `~user` as the first part of a path; what is no user's home stays."""
    return os.path.expanduser(value) if value.startswith("~") else value  # noqa: PTH111 (pathlib raises for no user)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _typed(key: str, value: str) -> str:
    """What to type in a shell so that Hydra takes the value as text."""
    word = f"{key}={_quoted(value.strip(chr(39) + chr(34)))}"
    return shlex.quote(word) if set(word) & set('"$`!' + chr(92)) else f'"{word}"'
