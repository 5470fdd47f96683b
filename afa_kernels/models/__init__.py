"""Whole networks, and the aggregation networks of the official code that they are made of."""

from afa_kernels.models.afa import (
    AFAOCRSegmentationSSR,
    AFASegmentation,
    AFASegmentationHMA,
    AFASegmentationSSR,
    AFATrunk,
)
from afa_kernels.models.dla import DLA
from afa_kernels.models.dla_seg import DLASegmentation
from afa_kernels.nn.aggregation import AFADLAUp, AFAIDAUp, AFALevelFusion

__all__ = [
    "DLA",
    "AFADLAUp",
    "AFAIDAUp",
    "AFALevelFusion",
    "AFAOCRSegmentationSSR",
    "AFASegmentation",
    "AFASegmentationHMA",
    "AFASegmentationSSR",
    "AFATrunk",
    "DLASegmentation",
]
