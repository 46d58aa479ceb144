"""Tables of a model whose units are documents: ratios of sums, and lower is better."""

import csv
import io
import re
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest

from rlm.errors import StageError
from rlm.report import render, write_reports
from rlm.report.statistics import Sample, compare
from rlm.report.summary import Summary, summarise
from rlm.table import AblationTable, Cell
from tests.fakes.language_model import documents, finish, install, read_table
from tests.report.store import write_stage
from tests.report.test_text import _table_lines

BPB, PPL = "bits_per_byte", "perplexity"


@pytest.fixture(autouse=True)
def language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture
def finished(tmp_path: Path) -> tuple[AblationTable, list[Cell], Path]:
    table, cells = read_table(tmp_path)
    finish(tmp_path / "store", cells)
    return table, cells, tmp_path / "store"


def _summary(tmp_path: Path, *edits: tuple[str, str], **options: object) -> Summary:
    table, cells = read_table(tmp_path, *edits, **options)
    finish(tmp_path / "store", cells)
    return summarise(table, cells, tmp_path / "store")


def _sums(cells: list[Cell], row: str, *names: str) -> np.ndarray:
    """Of documents by seed, [names, seeds, documents]."""
    mine = [cell for cell in cells if cell.row == row]
    return np.array([[[line[name] for line in documents(cell)] for cell in mine] for name in names], dtype=float)


def test_estimates__are_ratios_of_sums(finished: tuple[AblationTable, list[Cell], Path]) -> None:
    summary = summarise(*finished)
    nats, length, tokens = _sums(finished[1], "one", "nats", "bytes", "tokens")
    bits_per_byte = [sum(n) / log(2) / sum(b) for n, b in zip(nats, length, strict=True)]
    perplexity = [exp(sum(n) / sum(t)) for n, t in zip(nats, tokens, strict=True)]
    for column, by_seed in ((BPB, bits_per_byte), (PPL, perplexity)):
        found = summary.estimates["one", "wiki", column]
        assert found.mean == pytest.approx(np.mean(by_seed))
        assert found.sd == pytest.approx(np.std(by_seed, ddof=1))
        assert (found.n, found.seeds) == (300, 2)
    assert abs(np.mean(nats / log(2) / length) - bits_per_byte[0]) > 1e-4, "not the mean of the documents' ratios"


def _drawn(cells: list[Cell], row: str, column: str, picks: np.ndarray) -> np.ndarray:
    """A row's figure, averaged over seeds, on drawn documents."""
    nats, weights = _sums(cells, row, "nats", "bytes" if column == BPB else "tokens")
    ratio = nats[:, picks].sum(axis=2) / weights[:, picks].sum(axis=2)
    return (ratio / log(2) if column == BPB else np.exp(ratio)).mean(axis=0)


@pytest.mark.parametrize("column", [BPB, PPL])
def test_intervals__agree_with_a_bootstrap_written_out(
    finished: tuple[AblationTable, list[Cell], Path], column: str
) -> None:
    _, cells, _ = finished
    summary = summarise(*finished)
    picks = np.random.default_rng(11).integers(0, 300, (4000, 300))
    ours, theirs = (_drawn(cells, row, column, picks) for row in ("one", "Off"))
    found = summary.estimates["one", "wiki", column]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ours, [0.025, 0.975])), abs=0.1 * ours.std())
    difference = summary.compared["one", "wiki", column].difference
    paired = ours - theirs
    expected = tuple(np.quantile(paired, [0.025, 0.975]))
    assert (difference.low, difference.high) == pytest.approx(expected, abs=0.12 * paired.std())
    assert difference.high - difference.low < 0.5 * (found.high - found.low), "paired"
    # The delta method gives the bootstrap's own standard error, to first order.
    assert difference.detectable == pytest.approx((1.95996 + 0.84162) * paired.std(), rel=0.1)


def _samples(aggregate: str, own_weights: bool, seed: int) -> list[Sample]:
    """Two rows that need as much for a token, on 120 documents."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(50, 400, (2, 120)).astype(float)
    values = weights * rng.normal(2, 0.3, (2, 120))
    if not own_weights:
        values, weights = values * weights[0] / weights, weights[[0, 0]]
    return [Sample(values[i : i + 1], weights[i : i + 1], aggregate) for i in (0, 1)]  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregate", ["ratio", "exp_ratio"])
@pytest.mark.parametrize("own_weights", [False, True])
def test_compare__of_ratios_rejects_at_its_level_when_there_is_no_difference(aggregate: str, own_weights: bool) -> None:
    p_values = [compare(*_samples(aggregate, own_weights, seed)).p for seed in range(100)]
    assert 0.0 < np.mean(np.array(p_values) < 0.05) <= 0.12


@pytest.mark.parametrize("aggregate", ["ratio", "exp_ratio"])
def test_compare__of_ratios_gives_the_other_sign_when_the_rows_are_exchanged(aggregate: str) -> None:
    ours, theirs = _samples(aggregate, True, 0)
    one, other = compare(ours, theirs), compare(theirs, ours)
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)
    assert (one.p, one.detectable) == (other.p, other.detectable)
    same = compare(ours, ours)
    assert (same.mean, same.low, same.high, same.p, same.detectable) == (0, 0, 0, 1, None)


def test_influence__is_the_jackknife_of_the_figure() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(50, 400, (2, 500)).astype(float)
    sample = Sample(weights * rng.normal(2, 0.3, (2, 500)), weights, "exp_ratio")
    left_out = [
        np.exp((sample.values.sum(1) - sample.values[:, i]) / (weights.sum(1) - weights[:, i])).mean()
        for i in range(500)
    ]
    jackknife = 499 * (sample.by_seed().mean() - np.array(left_out))
    np.testing.assert_allclose(sample.influence(), jackknife, atol=0.02 * jackknife.std())


def test_trends__of_a_falling_column_are_held_when_it_falls(tmp_path: Path) -> None:
    chain, pair = _summary(tmp_path).trends
    assert (chain.verdict, chain.relation) == ("held", "<")
    assert [(one.first, one.second, one.agree, one.seeds) for one in chain.pairs] == [
        ("two", "one", 2, 2),
        ("one", "Off", 2, 2),
    ]
    assert (pair.verdict, pair.relation) == ("held", ">"), "the same inequality may be written either way"
    (wrong, _) = _summary(tmp_path, ("two < one < Off", "Off < two")).trends
    assert wrong.verdict == "not held" and wrong.pairs[0].agree == 0


def test_markdown__speaks_of_documents_and_of_what_is_better(
    finished: tuple[AblationTable, list[Cell], Path],
) -> None:
    printed = render(*finished, "markdown")
    summary = summarise(*finished)
    assert not re.search("question|percent|exact match", printed)
    shown = _table_lines(
        printed, "Results on wiki: bits per byte (bits/byte, lower is better), perplexity (lower is better):"
    )
    assert shown["row"] == ["bits per byte", "paper", "perplexity", "paper", "n", "seeds", "cost"]
    found = [summary.estimates["two", "wiki", column] for column in (BPB, PPL)]
    assert shown["two"][:4] == [
        f"{found[0].mean:.3f} ± {found[0].sd:.3f} †",
        "0.988",
        f"{found[1].mean:.2f} ± {found[1].sd:.2f} †",
        "12.30",
    ]
    assert "Documents: the first 300 of the test split." in printed
    assert "paired bootstrap over documents" in printed and "what other documents would show" in printed
    differences = _table_lines(printed, "Differences from Off on wiki: bits per byte (bits/byte, lower is better)")
    assert re.fullmatch(r"−\d+\.\d\d", differences["two"][1]), "perplexity, the last of the row's lines"
    trends = _table_lines(printed, "Expected trends on wiki")
    assert trends["two < one < Off"][0] == "held"
    assert re.fullmatch(r"−0\.\d{3}", trends["– two < one"][2])
    assert "seeds: those in which the first is higher (>) or lower (<)" in printed


def test_markdown__names_a_single_unit_once(tmp_path: Path) -> None:
    edits = ("columns: [bits_per_byte, perplexity]", "columns: [bits_per_byte]"), ("  - perplexity: Off > two\n", "")
    table, cells = read_table(tmp_path, *edits)
    finish(tmp_path / "store", cells)
    printed = render(table, cells, tmp_path / "store", "markdown")
    assert "Results on wiki, in bits/byte, lower is better:" in printed
    assert "Differences from Off on wiki, in bits/byte, lower is better; detectable" in printed
    assert "seeds: those in which the first is lower:" in printed


def test_html__draws_bars_of_every_column_and_the_curves_there_are(tmp_path: Path) -> None:
    table, cells = read_table(tmp_path, datasets=["wiki", "news"])
    finish(tmp_path / "store", cells)
    text = render(table, cells, tmp_path / "store", "html")
    titles = re.findall(r'<svg class="plot" role="img"[^>]*><title[^>]*>([^<]*)</title><desc', text)
    of_dataset = ["Bits per byte", "Perplexity", "Bits per byte over training"]
    assert titles == [
        *(f"{title} on {dataset}" for dataset in ("wiki", "news") for title in of_dataset),
        "Gate",
        "Loss of fake train",
    ]
    assert "line: 95 % interval over documents" in text and "bar: mean, in bits/byte" in text
    assert not re.search("question|percent", text)


def test_csv__has_the_figures_in_full(finished: tuple[AblationTable, list[Cell], Path]) -> None:
    summary = summarise(*finished)
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(render(*finished, "csv")))}
    assert float(lines["two"]["perplexity_low"]) == pytest.approx(summary.estimates["two", "wiki", PPL].low)
    assert write_reports(*finished).exists()


def test_read_results__refuses_lines_that_contradict_the_record(
    finished: tuple[AblationTable, list[Cell], Path],
) -> None:
    table, cells, store = finished
    stage = cells[0].stages["perplexity"]
    lines = documents(cells[0])
    write_stage(store, stage, {BPB: 2.0, PPL: 2.0}, {"documents.jsonl": lines})
    with pytest.raises(StageError, match=r"documents\.jsonl: does not give the recorded bits_per_byte of 2\.0"):
        summarise(table, cells, store)
    write_stage(store, stage, {BPB: 2.0, PPL: 2.0}, {"documents.jsonl": [{"id": "a", "nats": 3.0}]})
    with pytest.raises(StageError, match=r"documents\.jsonl:1: no bits_per_byte \(KeyError: 'bytes'\)"):
        summarise(table, cells, store)
    write_stage(store, stage, {BPB: 2.0, PPL: 2.0}, {"documents.jsonl": [{"id": "a", "nats": 0.0, "bytes": 0}]})
    with pytest.raises(StageError, match="does not give the recorded bits_per_byte"):
        summarise(table, cells, store)


def test_compared__when_tokens_are_others_only_bits_per_byte_is(tmp_path: Path) -> None:
    summary = _summary(tmp_path, ("two: {neighbours: 2}", "two: {neighbours: 2, pieces: 5}"))
    assert ("two", "wiki", BPB) in summary.compared and ("two", "wiki", PPL) not in summary.compared
    assert "two on wiki: other tokens than Off, so perplexity is not compared" in summary.results.notes
    judged = summary.trends[1]
    assert (judged.verdict, judged.pairs[0].reason) == ("undecided", "other tokens")


def test_compared__when_documents_are_others(finished: tuple[AblationTable, list[Cell], Path]) -> None:
    table, cells, store = finished
    for cell in cells:
        if cell.row == "two":
            lines = documents(cell)[:-1]
            nats, length, tokens = (sum(line[name] for line in lines) for name in ("nats", "bytes", "tokens"))
            figures = {BPB: nats / log(2) / length, PPL: exp(nats / tokens)}
            write_stage(store, cell.stages["perplexity"], figures, {"documents.jsonl": lines})
    summary = summarise(table, cells, store)
    assert summary.results.notes == ["two on wiki: other documents than Off, so it is not compared"]
    assert summary.trends[1].pairs[0].reason == "no documents in common"


def test_legend__names_all_units_of_a_table(finished: tuple[AblationTable, list[Cell], Path]) -> None:
    table, cells, store = finished
    printed = render(replace(table, columns=(BPB, "solved")), cells, store, "markdown")
    assert "Documents and questions: the first 300 of the test split." in printed
    assert "Results on wiki: bits per byte (bits/byte, lower is better), solved (percent):" in printed
    assert (
        "Differences from Off on wiki: bits per byte (bits/byte, lower is better), solved (percentage points);"
        in printed
    )


def test_read_results__refuses_rows_that_share_what_determines_a_column_but_differ(
    finished: tuple[AblationTable, list[Cell], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlm.stages.models import MODELS

    table, cells, store = finished
    model = MODELS["language_model"]

    def columns(experiment: object) -> tuple:
        return tuple(replace(column, determined_by="a text") for column in model.columns(experiment))

    monkeypatch.setitem(MODELS, "language_model", replace(model, columns=columns))
    stage = replace(cells[0].stages["perplexity"], config={"k": 99})
    twin = replace(cells[0], row="one", stages={**cells[0].stages, "perplexity": stage})
    write_stage(
        store,
        twin.stages["perplexity"],
        {BPB: 1.0, PPL: exp(log(2))},
        {
            "documents.jsonl": [
                {**line, "nats": line["bytes"] * log(2), "tokens": line["bytes"]} for line in documents(cells[0])
            ]
        },
    )
    others = [cell for cell in cells if not (cell.row == "one" and cell.seed == 0)]
    with pytest.raises(StageError, match="rows `Off` and `one` share a text but show"):
        summarise(table, [*others, twin], store)
