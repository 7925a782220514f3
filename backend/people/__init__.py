"""Combine several annotators: consensus, second opinions and likely label errors."""
