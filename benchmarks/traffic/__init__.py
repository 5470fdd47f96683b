"""Bytes moved and kernels launched by one forward and one backward pass, counted on the CPU: bounds, not times.

    TRITON_INTERPRET=1 python -m benchmarks.traffic      counts afa_kernels and eager PyTorch
    python -m benchmarks.traffic.compiled                with a CUDA build of torch, no GPU: counts torch.compile

One meter, `meter.py`, counts all three, into benchmarks/results/traffic.json.
"""
