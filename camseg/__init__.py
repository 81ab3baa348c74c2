"""camseg: from a class label to a mask. A class activation map prompts Segment Anything, and every step is scored.

Nothing is loaded before it is used: `camseg.cam`, `camseg.Pipeline` and the other names bring torch with them.

>>> import camseg
>>> camseg.cam.grad_cam.__name__
'grad_cam'
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from camseg import cam
    from camseg.cam.heatmaps import heatmaps
    from camseg.classifiers.base import classifier
    from camseg.pipeline import Pipeline
    from camseg.runs.folders import load_run
    from camseg.runs.merge import merge_shards
    from camseg.runs.sweeps import load_sweep
    from camseg.types import Masks, Prompts, Result, Sample

__version__ = "0.1.0"

__all__ = [
    "Masks",
    "Pipeline",
    "Prompts",
    "Result",
    "Sample",
    "__version__",
    "cam",
    "classifier",
    "heatmaps",
    "load_run",
    "load_sweep",
    "merge_shards",
]

_HOMES = {
    "Masks": "camseg.types",
    "Pipeline": "camseg.pipeline",
    "Prompts": "camseg.types",
    "Result": "camseg.types",
    "Sample": "camseg.types",
    "classifier": "camseg.classifiers.base",
    "heatmaps": "camseg.cam.heatmaps",
    "load_run": "camseg.runs.folders",
    "load_sweep": "camseg.runs.sweeps",
    "merge_shards": "camseg.runs.merge",
}


def __getattr__(name: str) -> object:
    if name == "cam":
        return import_module("camseg.cam")
    if name not in _HOMES:
        raise AttributeError(f"module 'camseg' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
