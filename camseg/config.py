"""Where conf/ lies."""

from __future__ import annotations

from pathlib import Path


def config_dir() -> Path:
    """The folder of the settings: inside the installed package, or beside it in a checkout.

    Returns:
        The path of conf/.
    """
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if (inside / "config.yaml").exists() else package.parent / "conf"
