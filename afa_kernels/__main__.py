"""`python -m afa_kernels`: what exists here, what was chosen, and for each missing part why and how to get it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from afa_kernels import backend_info


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m afa_kernels", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run one small call of every operation, forward and backward, on every backend that is here, print the "
        "largest difference from plain PyTorch, and exit with 1 where one is not within rounding",
    )
    asked = parser.parse_args()
    info, found = backend_info(), []
    if not asked.json:
        print(info)
    if asked.check:
        from afa_kernels import selfcheck

        for outcome in selfcheck.outcomes():
            found.append(outcome)
            if not asked.json:
                print(outcome, flush=True)
        if not found and not asked.json:
            print("nothing to check: plain PyTorch is all there is")
    if asked.json:
        told = dataclasses.asdict(info) | ({"check": [dataclasses.asdict(o) for o in found]} if asked.check else {})
        print(json.dumps(told, indent=2))
    return int(any(outcome.fault is not None for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
