"""`rlm score`: exact match of any system's predictions."""

import argparse

from rlm import report


def main(options: argparse.Namespace) -> int:
    """Print the score."""
    print(report.score(options.predictions, options.answers, options.answer_kind))
    return 0
