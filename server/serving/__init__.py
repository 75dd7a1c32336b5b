"""Predictions made and outcomes taken: the hot path.

Law of this package: everything that can be refused is refused before a language model is called, and whatever is
acknowledged is on disk.
"""
