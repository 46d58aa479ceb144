"""Ablations and benchmarks of retrieval-augmented language models."""

__version__ = "0.1.0"
