"""`rlm data`: checks a data folder, or fetches a data set into one."""

import argparse

from rlm.data import sources


def main(options: argparse.Namespace) -> int:
    """Check or fetch."""
    if options.action == "check":
        return check(options)
    sources.fetch(options.dataset, options.out, options.limit)
    return 0


def check(options: argparse.Namespace) -> int:
    """Print the report of every file; 1 where something is wrong."""
    problems = sources.check_folder(options.folder)
    for problem in problems:
        print(problem)
    return 1 if problems else 0
