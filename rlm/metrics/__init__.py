"""Exact match and retrieval recall, as torchmetrics."""
