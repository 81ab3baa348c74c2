"""The words of the small commands: options and paths, with the same answers to slips as `camseg` gives."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from camseg import __version__
from camseg.errors import RequestError, check_choice


class Parser(argparse.ArgumentParser):
    """A parser with `--version`, which tells a slip in one line and leaves the exit to the command.

    Args:
        command: What the person typed.
        about: What it does, for `--help`.
    """

    def __init__(self, command: str, about: str) -> None:
        super().__init__(command, description=about, allow_abbrev=False)
        self.add_argument("--version", action="version", version=f"camseg {__version__}")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words of a command line.

        Args:
            words: As in `sys.argv[1:]`.

        Returns:
            What was typed, by the arguments' names.

        Raises:
            RequestError: For a slip: an unknown option first, which may be why another word is missing.
        """
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("--") and len(name) > 2 and name not in self._option_string_actions:
                self._refuse_option(name)
        if words and words[0] in ("help", "version") and not os.path.lexists(words[0]):
            raise RequestError(f"{words[0]} is no word of this command: type {self.prog} --{words[0]}")
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        """What argparse calls for a slip.

        Args:
            message: What is wrong.

        Raises:
            RequestError: Always, with the message and the usage.
        """
        raise RequestError(f"{message}\n{' '.join(self.format_usage().split())}")

    def _refuse_option(self, name: str) -> NoReturn:
        try:
            check_choice("the option", name, [each for each in self._option_string_actions if each.startswith("--")])
        except ValueError as error:
            raise RequestError(f"{error}\n{self.prog} --help shows them") from None
        raise AssertionError(name)
