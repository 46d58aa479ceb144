"""`rlm table`: prints the table of whatever is finished."""

import argparse
import os

from rlm import report
from rlm.commands.plan import table_of


def main(options: argparse.Namespace) -> int:
    """Print or write the table."""
    table, cells = table_of(options)
    text = report.render(table, cells, options.store, options.format)
    if options.out is None:
        print(text)
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # A reader of the file never sees half of it.
    partial = options.out.with_name(options.out.name + ".tmp")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, options.out)
    return 0
