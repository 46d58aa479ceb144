"""Stages: pure functions from a configuration and input folders to a folder."""
