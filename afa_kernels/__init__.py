"""Fast, drop-in operations for attentive feature aggregation (AFA) and scale-space rendering (SSR) in PyTorch.

Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, arXiv 2111.00770.
"""

from afa_kernels import _torch  # first: whether torch is new enough  # noqa: F401
from afa_kernels._version import __version__
from afa_kernels.backends import backend_info, use_backend
from afa_kernels.exporting import export_decompositions
from afa_kernels.flops import register_when_imported
from afa_kernels.nn.folded import fold
from afa_kernels.ops.attentive_fusion import attentive_fusion
from afa_kernels.ops.bn_relu_conv2d import bn_relu_conv2d
from afa_kernels.ops.bn_relu_project import bn_relu_project
from afa_kernels.ops.channel_attention import channel_attention
from afa_kernels.ops.global_avg_max_pool import global_avg_max_pool
from afa_kernels.ops.hierarchical_fusion import hierarchical_fusion
from afa_kernels.ops.progressive_fusion import progressive_fusion
from afa_kernels.ops.resized_cross_entropy import resized_cross_entropy
from afa_kernels.ops.resized_fusion import resized_fusion
from afa_kernels.ops.resized_labels import resized_labels
from afa_kernels.ops.scale_space_cross_entropy import scale_space_cross_entropy
from afa_kernels.ops.scale_space_labels import scale_space_labels
from afa_kernels.ops.scale_space_render import scale_space_render
from afa_kernels.ops.scale_space_weights import scale_space_weights
from afa_kernels.ops.upsampled_fusion import upsampled_fusion
from afa_kernels.ops.upsampled_pool import upsampled_pool
from afa_kernels.patching import patch
from afa_kernels.renderer import ScaleSpaceRenderer
from afa_kernels.warmup import warmup

register_when_imported()

__all__ = [
    "ScaleSpaceRenderer",
    "__version__",
    "attentive_fusion",
    "backend_info",
    "bn_relu_conv2d",
    "bn_relu_project",
    "channel_attention",
    "export_decompositions",
    "fold",
    "global_avg_max_pool",
    "hierarchical_fusion",
    "patch",
    "progressive_fusion",
    "resized_cross_entropy",
    "resized_fusion",
    "resized_labels",
    "scale_space_cross_entropy",
    "scale_space_labels",
    "scale_space_render",
    "scale_space_weights",
    "upsampled_fusion",
    "upsampled_pool",
    "use_backend",
    "warmup",
]
