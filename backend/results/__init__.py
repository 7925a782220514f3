"""Bring labels and models out of Tightloop, and labels from elsewhere in."""
