"""Provide the pool of images: its sources, the cache of decoded pixels, and the splits."""
