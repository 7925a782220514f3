"""Combine the labels of several annotators: consensus, second opinions and likely errors."""
