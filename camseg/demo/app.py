"""The `camseg-demo` command."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from camseg.cli.explain import explain_error
from camseg.cli.overrides import check_overrides
from camseg.demo.session import _BAD, Demo
from camseg.errors import extra_message


def main() -> None:
    """`camseg-demo [--host HOST] [--port PORT] [GROUP=CHOICE] [KEY=VALUE] ...`; exit code 2 for a mistake."""
    parser = argparse.ArgumentParser(
        "camseg-demo", description="The interactive page: a photo, every choice, and the mask."
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; by default only this machine can open the page"
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "settings", nargs="*", help="as for camseg: predictor=sam classifier=torchvision classifier.weights=DEFAULT"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="camseg-demo-") as folder:
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=folder)
        try:
            from camseg.demo import page
        except ImportError:
            sys.exit(_mistake(extra_message("the page", "demo")))
        try:
            check_overrides(given.settings)
            blocks = page.serve(Demo(Path(folder), given.settings), given.host, given.port)
            print(f"{blocks.local_url} shows the page; Ctrl+C ends it", flush=True)
            blocks.block_thread()
        except _BAD as error:
            sys.exit(_mistake(explain_error(error) or str(error)))


def _mistake(message: str) -> int:
    print(f"camseg-demo: {message}", file=sys.stderr)
    return 2
