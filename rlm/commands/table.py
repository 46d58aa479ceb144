"""`rlm table`: prints the table of whatever is finished."""

import argparse

from rlm import report
from rlm.commands.plan import table_of
from rlm.errors import ConfigError, StageError
from rlm.files import write_whole

ENDINGS = {"markdown": "md", "latex": "tex"}
"""Of files of a format, where it is not the format's name."""


def main(options: argparse.Namespace) -> int:
    """Print or write the table.

    Raises:
        ConfigError: the file cannot be written.
    """
    if options.out is not None and options.out.is_dir():
        file = options.out / f"table.{ENDINGS.get(options.format, options.format)}"
        raise ConfigError(f"--out {options.out}: is a folder; name a file in it, such as {file}")
    table, cells = table_of(options)
    text = report.render(table, cells, options.store, options.format)
    if options.out is None:
        print(text)
        return 0
    try:
        write_whole(options.out, text)
    except StageError as error:
        raise ConfigError(f"--out {error}; name another file") from None
    return 0
