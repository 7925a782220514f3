"""Moved to scripts.research.bench_consensus."""

from scripts.moved import exit_moved

if __name__ == "__main__":
    exit_moved(__file__)
