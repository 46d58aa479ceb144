"""Dual encoder, indexes, index refresh: from a query to passage ids."""
