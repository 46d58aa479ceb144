"""`rlm ui`: opens MLflow on the store."""

import argparse

from rlm import tracking
from rlm.errors import ConfigError


def main(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if not options.store.is_dir():
        raise ConfigError(f"--store {options.store}: no such folder; run a table first, or name another")
    return tracking.serve(options.store, options.host, options.port)
