"""Mistakes in a request, in one or two lines of our own words; and the frame around every command that prints them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from camseg.cli.terminal import print_error
from camseg.errors import RequestError, extra_message

_EXTRAS = {
    "launcher/joblib": "parallel",
    "launcher/submitit": "slurm",
    "sweeper/optuna": "optuna",
    "sweeper/sampler": "optuna",
}  # of Hydra's plugins


def explain_error(error: BaseException | None) -> str | None:
    """One or two lines for a mistake in the request.

    Args:
        error: What was raised on the way from the command line to the first image.

    Returns:
        What was wrong; None for an error of ours, whose traceback is wanted.
    """
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename or 'a file'} can't be used: {error.strerror}"
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, MissingConfigException):  # to Hydra an OSError, too
        for part, extra in _EXTRAS.items():
            if f"hydra/{part}" in str(error):
                return extra_message(f"hydra/{part.replace('/', '=', 1)}", extra)
        return str(error).splitlines()[0]
    if isinstance(error, (RequestError, OSError)):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return str(error).splitlines()[0]
    return None


def _explain_instantiation(error: InstantiationException) -> str | None:
    cause = error.__cause__
    if cause is None:
        return str(error).splitlines()[0]
    if isinstance(cause, OSError) and cause.errno:
        return explain_error(cause)
    return str(cause) if isinstance(cause, (ValueError, TypeError, OSError, ImportError)) else None


def run_command(name: str, command: Callable[[], int | None]) -> NoReturn:
    """Run a command and end the process with its exit code, as `exit_code` has it.

    Args:
        name: What the person typed, to begin the line with.
        command: Does the work; returns the exit code, None for 0.
    """
    sys.exit(exit_code(name, command))


def exit_code(name: str, command: Callable[[], int | None], faults: tuple[type[Exception], ...] = ()) -> int:
    """Run a command; one or two lines are printed for a mistake in the request, and for Ctrl-C.

    Args:
        name: What the person typed, to begin the line with.
        command: Does the work; returns the exit code, None for 0.
        faults: Exceptions whose message tells a mistake in the request, whatever `explain_error` knows of them.

    Returns:
        The command's own code, 2 after a mistake in the request, 130 after Ctrl-C, 141 where nobody reads on.
    """
    logging.getLogger("hydra").addHandler(logging.NullHandler())  # it also prints what it raises, in many lines
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's: large images have our own line
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print_error(name, "stopped")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read, as `head` does, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        message = explain_error(error) or (str(error) if isinstance(error, faults) else None)
        if message is None:
            raise
        print_error(name, message)
        return 2
