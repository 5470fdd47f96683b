"""Refuse a torch that is too old, before anything asks it for what it lacks."""

import torch

OLDEST = (2, 11)  # as in pyproject.toml and build_backend.py

found = tuple(map(int, torch.__version__.split(".")[:2]))
if found < OLDEST:
    raise ImportError(f"afa_kernels needs torch >= {OLDEST[0]}.{OLDEST[1]}, found {torch.__version__}")
