import time

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from scipy import stats

from rlm.metrics.translation import sentence_statistics
from rlm.report import statistics
from rlm.report.statistics import RESAMPLES, Difference, Sample, estimate, holm, resampled


def _questions(values: np.ndarray) -> Sample:
    values = np.atleast_2d(values)
    return Sample(values, np.ones_like(values))


def compare(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of values per question."""
    return statistics.compare(_questions(ours), _questions(theirs))


def _pairs(n: int, seeds: int = 3, shift: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two correlated systems, averaged over seeds, [questions]."""
    generator = np.random.default_rng(seed)
    difficulty = generator.random(n)
    ours, theirs = (
        100.0 * (difficulty + generator.normal(0, 0.2, (seeds, n)) < rate).mean(axis=0) for rate in (0.4 + shift, 0.4)
    )
    return ours, theirs


@pytest.mark.parametrize(("n", "shift"), [(60, 0.1), (400, 0.02), (400, 0.0), (2000, 0.02)])
def test_compare__agrees_with_scipy_s_bootstrap_and_tests(n: int, shift: float) -> None:
    ours, theirs = _pairs(n, shift=shift)
    found = compare(ours, theirs)
    interval = stats.bootstrap(
        (ours - theirs,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = (ours - theirs).std(ddof=1) / n**0.5
    assert found.mean == pytest.approx((ours - theirs).mean(), abs=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=0.12 * spread)
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, abs=0.02)
    permuted = stats.permutation_test(
        (ours, theirs),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        n_resamples=5000,
        vectorized=True,
        rng=np.random.default_rng(2),
    )
    assert found.p == pytest.approx(permuted.pvalue, abs=0.04), "both are of few distinct means"


def test_compare__gives_the_other_sign_when_the_rows_are_exchanged() -> None:
    ours, theirs = _pairs(300)
    one, other = compare(ours, theirs), compare(theirs, ours)
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)
    assert (one.p, one.detectable) == (other.p, other.detectable)


def test_compare__finds_nothing_when_the_answers_are_the_same() -> None:
    ours, _ = _pairs(100)
    found = compare(ours, ours)
    assert (found.mean, found.low, found.high, found.p, found.detectable) == (0, 0, 0, 1, None)


def test_compare__is_cautious_when_few_questions_differ() -> None:
    theirs = np.zeros(100)
    ours = np.where(np.arange(100) < 3, 100.0, 0.0)
    assert stats.binomtest(3, 3).pvalue == 0.25, "three of three: an exact test finds nothing either"
    assert compare(ours, theirs).p > 0.05


def test_compare__rejects_at_its_level_when_there_is_no_difference() -> None:
    p_values = [compare(*_pairs(150, shift=0, seed=seed)).p for seed in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09


def test_detectable__is_found_in_four_of_five_samples() -> None:
    ours, theirs = _pairs(500)
    found = compare(ours, theirs)
    differences = ours - theirs
    assert found.detectable is not None
    generator = np.random.default_rng(3)
    samples = generator.choice(differences - differences.mean(), (4000, 500)) + found.detectable
    p_values = stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert np.mean(p_values < 0.05) == pytest.approx(0.80, abs=0.025)


def test_estimate__by_hand() -> None:
    values = np.array([[100, 0, 0, 0], [100, 100, 0, 0], [100, 100, 100, 0]], dtype=float)
    found = estimate(_questions(values))
    assert (found.mean, found.sd, found.n, found.seeds) == (50, 25, 4, 3)
    assert found.low < 50 < found.high
    assert estimate(_questions(values[:1])).sd is None


def test_resampled__has_the_distribution_of_drawn_questions() -> None:
    values = np.array([0.0, 100 / 3, 200 / 3, 100.0, 100.0, 0.0, 0.0])
    drawn = values[np.random.default_rng(5).integers(0, 7, (RESAMPLES, 7))].mean(axis=1)
    terms = [(1, _questions(values))]
    assert stats.ks_2samp(resampled(terms).round(6), drawn.round(6)).pvalue > 0.01
    np.testing.assert_array_equal(resampled(terms), resampled(terms))


def test_compare__takes_under_a_second_for_naturalquestions_dev() -> None:
    ours, theirs = _pairs(8757)
    start = time.perf_counter()
    compare(ours, theirs)
    assert time.perf_counter() - start < 1


def _step_down_rejects(p_values: list[float], level: float) -> list[bool]:
    """Holm's procedure as he states it."""
    rejected = [False] * len(p_values)
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


@pytest.mark.parametrize("seed", range(5))
def test_holm__gives_the_level_at_which_the_procedure_first_rejects(seed: int) -> None:
    p_values = (np.random.default_rng(seed).random(6) ** 3).round(3).tolist()
    corrected = holm(p_values)
    for i, p in enumerate(corrected):
        assert p_values[i] <= p <= 1
        if p < 1:
            assert _step_down_rejects(p_values, p + 1e-12)[i]
        assert not _step_down_rejects(p_values, p - 1e-9)[i]


def test_holm__by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def _translations(n: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """References and two systems, one of which errs more."""
    generator = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(40)]
    references = [[words[i] for i in generator.integers(0, 40, generator.integers(4, 12))] for _ in range(n)]
    systems = [
        [" ".join(w if generator.random() > rate else "x" for w in reference) for reference in references]
        for rate in (0.2, 0.3)
    ]
    return [" ".join(reference) for reference in references], *systems


def _corpus(metric: str, hypotheses: list[str], references: list[str]) -> Sample:
    values = np.array(sentence_statistics(hypotheses, references)[metric], np.float64)
    return Sample(values[None], np.ones((1, len(values))), metric)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_compare__of_a_corpus_metric_resamples_sentences(metric: str) -> None:
    """Against sacrebleu's figure of each resample."""
    references, better, worse = _translations(60, 0)
    ours, theirs = _corpus(metric, better, references), _corpus(metric, worse, references)
    found = statistics.compare(ours, theirs)
    scorer = {"bleu": BLEU, "chrf": CHRF}[metric]()

    def figure(hypotheses: list[str], rows: np.ndarray) -> float:
        return scorer.corpus_score([hypotheses[i] for i in rows], [[references[i] for i in rows]]).score

    assert found.mean == pytest.approx(figure(better, np.arange(60)) - figure(worse, np.arange(60)), abs=1e-9)
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, 60, 60) for _ in range(400)]
    differences = [figure(better, rows) - figure(worse, rows) for rows in drawn]
    spread = np.std(differences)
    assert (found.low, found.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.35 * spread)
    assert found.detectable == pytest.approx((1.96 + 0.8416) * spread, rel=0.15), "the delta method"
    assert estimate(ours).mean == pytest.approx(figure(better, np.arange(60)), abs=1e-9)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_influence__of_a_corpus_metric_is_how_far_the_figure_moves(metric: str) -> None:
    """A sentence that counts a little more moves the figure by so much (n times)."""
    references, better, _ = _translations(30, 2)
    sample = _corpus(metric, better, references)
    found = sample.influence()
    assert found.mean() == pytest.approx(0, abs=1e-6)
    for unit in (0, 7, 29):
        weights = np.ones(30)
        weights[unit] += 1e-4
        moved = sample.of(weights @ sample.values[0], weights.sum()) - sample.by_seed()[0]
        assert moved / 1e-4 * 30 == pytest.approx(found[unit], rel=1e-2, abs=1e-2)


def test_compare__of_a_corpus_metric_averages_the_figures_of_seeds() -> None:
    references, better, worse = _translations(40, 3)
    both = [_corpus("bleu", each, references) for each in (better, worse)]
    seeds = Sample(np.concatenate([each.values for each in both]), np.ones((2, 40)), "bleu")
    assert estimate(seeds).mean == pytest.approx(np.mean([each.by_seed()[0] for each in both]))
    found = statistics.compare(seeds, Sample(both[1].values.repeat(2, 0), np.ones((2, 40)), "bleu"))
    assert found.mean == pytest.approx((both[0].by_seed()[0] - both[1].by_seed()[0]) / 2)
    assert found.low < found.mean < found.high
