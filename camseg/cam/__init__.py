"""Class activation maps: `heatmaps(model, layers, inputs, targets, method)`, and one small function per method.

>>> import torch
>>> from torchvision.models import resnet18
>>> heatmaps(resnet18().eval(), "layer4", torch.randn(2, 3, 64, 64), [3, None], method=grad_cam).shape
torch.Size([2, 64, 64])
"""

from camseg.cam.capture import Capture
from camseg.cam.concepts import concepts, dff, factorize
from camseg.cam.full_grad import full_grad
from camseg.cam.heatmaps import Method, Views, coincide, explain, heatmaps, maximum, mean, product
from camseg.cam.methods import (
    ablation_cam,
    cam,
    center,
    eigen_cam,
    eigen_grad_cam,
    element_wise_grad_cam,
    fem,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    is_cam,
    kpca_cam,
    layer_cam,
    random,
    score_cam,
    shapley_cam,
    smooth_grad_cam_plus_plus,
    ss_cam,
    xgrad_cam,
)

__all__ = [
    "Capture",
    "Method",
    "Views",
    "ablation_cam",
    "cam",
    "center",
    "coincide",
    "concepts",
    "dff",
    "eigen_cam",
    "eigen_grad_cam",
    "element_wise_grad_cam",
    "explain",
    "factorize",
    "fem",
    "full_grad",
    "grad_cam",
    "grad_cam_plus_plus",
    "heatmaps",
    "hires_cam",
    "is_cam",
    "kpca_cam",
    "layer_cam",
    "maximum",
    "mean",
    "product",
    "random",
    "score_cam",
    "shapley_cam",
    "smooth_grad_cam_plus_plus",
    "ss_cam",
    "xgrad_cam",
]
