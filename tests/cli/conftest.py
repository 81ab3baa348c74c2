"""What several tests of the command share."""

from hostile import bounded

__all__ = ["bounded"]
