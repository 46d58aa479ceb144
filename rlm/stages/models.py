"""The kinds of experiment a table can be about (imports nothing heavy)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rlm.stages.checks import check_realm
from rlm.stages.columns import Against, Column, ColumnCurve, Examples, HeatMap, Plot
from rlm.stages.experiment import (
    REALM_PLOTS,
    RealmExperiment,
    realm_columns,
    realm_datasets,
    realm_measured_on,
    realm_stages,
)
from rlm.stages.knn_lm_checks import check_knn_lm
from rlm.stages.knn_lm_experiment import (
    KNN_LM_AGAINST,
    KNN_LM_EXAMPLES,
    KNN_LM_HEAT_MAPS,
    KnnLmExperiment,
    knn_lm_columns,
    knn_lm_datasets,
    knn_lm_measured_on,
    knn_lm_stages,
)
from rlm.stages.knn_mt_experiment import (
    KnnMtExperiment,
    check_knn_mt,
    knn_mt_columns,
    knn_mt_datasets,
    knn_mt_measured_on,
    knn_mt_stages,
)
from rlm.stages.retro_experiment import (
    RetroExperiment,
    check_retro,
    retro_columns,
    retro_curves,
    retro_datasets,
    retro_measured_on,
    retro_stages,
)
from rlm.stages.retro_qa_experiment import (
    RetroQaExperiment,
    check_retro_qa,
    retro_qa_columns,
    retro_qa_datasets,
    retro_qa_measured_on,
    retro_qa_stages,
)
from rlm.stages.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A kind of experiment that a table can be about."""

    experiment: type[Any]
    """The dataclass of one row's configuration."""
    datasets: Callable[[Any], Collection[str]]
    """Names of the data sets that a row with this configuration offers."""
    stages: Callable[[Any, str, int, Callable[[Any], str]], dict[str, Stage]]
    """`stages(experiment, dataset, seed, content)` gives the stages of one cell by role, each after its inputs; only
    what the table's columns need is run."""
    columns: Callable[[Any], tuple[Column, ...]]
    """What a row with this configuration measures: a name means the same in every row that has it. A table that names
    no columns shows the first.
    """
    measured_on: Callable[[Any, str], str]
    """`measured_on(experiment, dataset)`: the split, and how much of it, in words."""
    check: Callable[[Any], list[str]]
    """Mistakes between fields, as `dotted.name: what to change`."""
    plots: tuple[Plot, ...] = ()
    """What stages log, but for losses, which are always drawn."""
    curves: Callable[[Any], tuple[ColumnCurve, ...]] = lambda experiment: ()
    """Columns of a row with this configuration as functions of a number."""
    against: tuple[Against, ...] = ()
    heat_maps: tuple[HeatMap, ...] = ()
    examples: tuple[Examples, ...] = ()
    live: tuple[str, ...] = ()
    """Metrics worth a place in one line while a stage runs, in this order, after its pace and loss."""


MODELS = {
    "realm": Model(
        experiment=RealmExperiment,
        datasets=realm_datasets,
        stages=realm_stages,
        columns=realm_columns,
        measured_on=realm_measured_on,
        check=check_realm,
        plots=REALM_PLOTS,
        live=("recall@5", "exact_match", "retrieval_utility", "index_age"),
    ),
    "retro": Model(
        experiment=RetroExperiment,
        datasets=retro_datasets,
        stages=retro_stages,
        columns=retro_columns,
        measured_on=retro_measured_on,
        check=check_retro,
        curves=retro_curves,
    ),
    "retro_qa": Model(
        experiment=RetroQaExperiment,
        datasets=retro_qa_datasets,
        stages=retro_qa_stages,
        columns=retro_qa_columns,
        measured_on=retro_qa_measured_on,
        check=check_retro_qa,
        live=("exact_match",),
    ),
    "knn_lm": Model(
        experiment=KnnLmExperiment,
        datasets=knn_lm_datasets,
        stages=knn_lm_stages,
        columns=knn_lm_columns,
        measured_on=knn_lm_measured_on,
        check=check_knn_lm,
        against=KNN_LM_AGAINST,
        heat_maps=KNN_LM_HEAT_MAPS,
        examples=KNN_LM_EXAMPLES,
    ),
    "knn_mt": Model(
        experiment=KnnMtExperiment,
        datasets=knn_mt_datasets,
        stages=knn_mt_stages,
        columns=knn_mt_columns,
        measured_on=knn_mt_measured_on,
        check=check_knn_mt,
        live=("bleu", "tokens_per_second"),
    ),
}
