"""Corpora, questions, tokens, salient spans and masking: everything that is read before a model runs."""
