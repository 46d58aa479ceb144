"""`rlm score`: exact match of any system's predictions."""

import argparse

from rlm.report.score import score_files


def main(options: argparse.Namespace) -> int:
    """Print the score."""
    print(score_files(options.predictions, options.answers, options.answer_kind))
    return 0
