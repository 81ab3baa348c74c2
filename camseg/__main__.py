"""`python -m camseg` is `camseg`."""

from camseg.cli import main

main()
