"""Modules: no arithmetic of their own, parameter names as in the official code."""

from afa_kernels.nn.attention import ABN, AttentiveFusion, ChannelAttention, ProgressiveFusion, SpatialAttention
from afa_kernels.nn.multiscale import MultiScale, ScaleSpaceRendering

__all__ = [
    "ABN",
    "AttentiveFusion",
    "ChannelAttention",
    "MultiScale",
    "ProgressiveFusion",
    "ScaleSpaceRendering",
    "SpatialAttention",
]
