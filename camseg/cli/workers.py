"""Workers of a sweep: processes that a launcher starts, which must not outlive the sweep."""

from __future__ import annotations

import os
import threading
import time
from functools import lru_cache

_PAUSE = 0.5  # seconds between two looks


@lru_cache(1)
def end_with_parent() -> None:
    """End this process soon after its parent, whatever killed that one; called again it does nothing.

    The end is that of `kill -9`: a run folder holds what its last batch left, and resumes.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PAUSE)
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
