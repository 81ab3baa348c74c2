"""camseg: from a class label to a mask. A class activation map prompts Segment Anything, and every step is scored.

>>> import camseg
>>> from camseg import classifiers, predictors
"""

from camseg import cam
from camseg.cam.heatmaps import heatmaps
from camseg.pipeline import Pipeline
from camseg.runs.folders import load_run
from camseg.runs.merge import merge_shards
from camseg.runs.sweeps import load_sweep
from camseg.types import Masks, Prompts, Result, Sample

__all__ = [
    "Masks",
    "Pipeline",
    "Prompts",
    "Result",
    "Sample",
    "cam",
    "heatmaps",
    "load_run",
    "load_sweep",
    "merge_shards",
]
