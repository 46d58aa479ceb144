"""`rlm ask`: answers a question and shows why."""

import argparse
from pathlib import Path

from rlm.errors import ConfigError, nearest


def main(options: argparse.Namespace) -> int:
    """Find the stage's folder and ask."""
    run = find_run(options.store, options.run)
    from rlm.stages.ask import ask

    ask(options.store, run, options.question, options.passage, options.answer, options.top)
    return 0


def find_run(store: Path, run: str) -> str:
    """The full name of a finished stage's folder, found before torch is imported.

    Args:
        store: the store.
        run: the name, a path to the folder, or the beginning of the name.

    Raises:
        ConfigError: no finished stage, or more than one, begins so.
    """
    name = Path(run).name
    known = sorted(path.parent.name for path in (store / "stages").glob("*/stage.json") if path.parent.suffix != ".tmp")
    if name in known:
        return name
    found = [folder for folder in known if folder.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{run}: {len(found)} finished stages of {store} begin so; write one of {', '.join(found)}")
    askable = [folder for folder in known if folder.split("-")[0] in ("finetune", "pretrain", "evaluate")]
    raise ConfigError(f"{run}: no such finished stage in {store}; {nearest(name, askable)}")
