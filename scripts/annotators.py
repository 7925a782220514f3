"""Moved to scripts.research.annotators."""

from scripts.moved import exit_moved

if __name__ == "__main__":
    exit_moved(__file__)
