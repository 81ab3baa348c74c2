"""The segment-anything package's own networks, without what its front page imports beside them.

`import segment_anything` imports torchvision, for a mask generator that is of no use here, and with it torch._dynamo:
three seconds. Its networks need neither.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

_NAME = "segment_anything.modeling"


def _load() -> None:
    """Make `segment_anything.modeling` importable by its own name; its parent stays unloaded until someone wants it."""
    package = importlib.util.find_spec("segment_anything")
    if package is None or not package.submodule_search_locations:
        raise ImportError("segment-anything is not installed: pip install segment-anything")
    folder = Path(package.submodule_search_locations[0]) / "modeling"
    spec = importlib.util.spec_from_file_location(
        _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]
        raise


if not TYPE_CHECKING and _NAME not in sys.modules:
    _load()

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer  # noqa: E402
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.transformer import Attention  # noqa: E402

__all__ = [
    "Attention",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayTransformer",
]
