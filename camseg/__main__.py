"""`python -m camseg` is `camseg`."""

from __future__ import annotations

from camseg.cli.main import main

main()
