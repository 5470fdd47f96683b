"""What only a GPU can show, in stages of at most 8 minutes each.

    python -m benchmarks.gpu all                                     every stage, one after the other
    python -m benchmarks.gpu kernels --op attentive_fusion           one, of one operation
    python -m benchmarks.gpu all --device cpu                        a dry run on small CPU tensors

It runs from the source tree and needs python3, torch >= 2.11, Triton >= 3.6 and, for `values`, pytest and numpy (with
pytest-xdist in parallel): nothing is installed, nothing is downloaded, no compiled library is needed.

    smoke       versions, clocks, what a copy and a matmul reach; one call of each operation against the reference
    values      the tests marked `device`: the battery and the values recorded from the official code
    kernels     afa_kernels alone, at the shapes of real networks: GPU time with a cold L2, CPU time, share of a copy
    baselines   the same of eager PyTorch and of torch.compile, default and max-autotune
    networks    modules and an up-path against the official composition: inference and a training step
    graphs      CUDA graphs captured right after `warmup` in a fresh process, streams, AOTInductor
    sanitizer   compute-sanitizer's memcheck, racecheck and initcheck over small calls

Every stage is a process of its own. It appends a JSON line to the record for everything as soon as it is known, so that
what ends it loses nothing, and once its budget is spent it records what it skipped. Numbers whose results are wrong are
refused, they alone. `python -m benchmarks.report` makes a table of the record.
"""
