"""Count, and print the table."""

from __future__ import annotations

import argparse

import benchmarks.traffic
from benchmarks.traffic import ours


def main() -> None:
    parser = argparse.ArgumentParser(
        description=benchmarks.traffic.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    ours.save(ours.count())
    print(ours.table(ours.load()))


if __name__ == "__main__":
    main()
