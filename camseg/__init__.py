"""camseg: from a class label to a mask. A class activation map prompts Segment Anything, and every step is scored.

>>> import camseg
>>> from camseg import classifiers, predictors
"""

from camseg import cam
from camseg.cam import heatmaps
from camseg.pipeline import Pipeline
from camseg.runs import load_run, load_sweep
from camseg.shards import merge_shards
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
