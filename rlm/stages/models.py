"""The kinds of experiment a table can be about (imports nothing heavy)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlm.stages.checks import check_realm
from rlm.stages.experiment import RealmExperiment, realm_columns, realm_measured_on, realm_stages
from rlm.stages.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A kind of experiment that a table can be about."""

    experiment: type[Any]
    """The dataclass of one row's configuration, with a field `questions` by data set name."""
    stages: Callable[[Any, str, int, Callable[[Any], str]], dict[str, Stage]]
    """`stages(experiment, dataset, seed, content)` gives the stages of one cell by role."""
    leaves: tuple[str, ...]
    """Roles whose results the table reads; only what they need is run."""
    columns: Callable[[Any], tuple[str, ...]]
    """What a row with this configuration measures, as the names of columns."""
    measured_on: Callable[[Any, str], str]
    """`measured_on(experiment, dataset)`: the split, and how much of it, in words."""
    check: Callable[[Any], list[str]]
    """Mistakes between fields, as `dotted.name: what to change`."""


MODELS = {
    "realm": Model(
        experiment=RealmExperiment,
        stages=realm_stages,
        leaves=("zero_shot", "evaluate"),
        columns=realm_columns,
        measured_on=realm_measured_on,
        check=check_realm,
    ),
}
