"""Whole networks: scores, labels and losses of images.

    model = models.create("afa_dla34", num_classes=19)      models.list() has all names
    scores = model(images)
    labels = model.eval().labels(images)
    losses = model.train().losses(images, targets)          a dictionary, whose sum is minimised

`from afa_kernels.models import *` leaves Python's own `list` alone.
"""

from afa_kernels.models.afa import (
    AFAOCRSegmentationSSR,
    AFASegmentation,
    AFASegmentationHMA,
    AFASegmentationSSR,
    AFATrunk,
)
from afa_kernels.models.checkpoint import load_checkpoint
from afa_kernels.models.decoders import AFAFCN, AFAHRNet, AFAUNet
from afa_kernels.models.dla import DLA
from afa_kernels.models.dla_seg import DLASegmentation
from afa_kernels.models.encoder import Encoder
from afa_kernels.models.losses import BinaryCrossEntropy, BoundaryLoss, RegionMutualInformation
from afa_kernels.models.registry import afa_fcn, afa_hrnet, afa_unet, afa_up, create, list_names
from afa_kernels.models.segmentation import Segmentation
from afa_kernels.nn.aggregation import AFADLAUp, AFAIDAUp, AFALevelFusion

list = list_names

__all__ = [
    "AFAFCN",
    "DLA",
    "AFADLAUp",
    "AFAHRNet",
    "AFAIDAUp",
    "AFALevelFusion",
    "AFAOCRSegmentationSSR",
    "AFASegmentation",
    "AFASegmentationHMA",
    "AFASegmentationSSR",
    "AFATrunk",
    "AFAUNet",
    "BinaryCrossEntropy",
    "BoundaryLoss",
    "DLASegmentation",
    "Encoder",
    "RegionMutualInformation",
    "Segmentation",
    "afa_fcn",
    "afa_hrnet",
    "afa_unet",
    "afa_up",
    "create",
    "load_checkpoint",
]
