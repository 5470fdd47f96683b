"""Fast, drop-in operations for attentive feature aggregation (AFA) and scale-space rendering (SSR) in PyTorch.

Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, arXiv 2111.00770.
"""

from afa_kernels.backends import backend_info, use_backend
from afa_kernels.ops.attentive_fusion import attentive_fusion



__version__ = "0.1.0"

__all__ = [
    "attentive_fusion",
    "backend_info",
    "use_backend",
]
