"""Modules: no arithmetic of their own, parameter names as in the official code."""

from afa_kernels.nn.aggregation import AFADLAUp, AFAIDAUp, AFALevelFusion
from afa_kernels.nn.attention import AttentiveFusion, ChannelAttention, ProgressiveFusion, SpatialAttention
from afa_kernels.nn.fusing import fusing
from afa_kernels.nn.multiscale import MultiScale, ScaleSpaceRendering
from afa_kernels.nn.norm import ABN

__all__ = [
    "ABN",
    "AFADLAUp",
    "AFAIDAUp",
    "AFALevelFusion",
    "AttentiveFusion",
    "ChannelAttention",
    "MultiScale",
    "ProgressiveFusion",
    "ScaleSpaceRendering",
    "SpatialAttention",
    "fusing",
]
