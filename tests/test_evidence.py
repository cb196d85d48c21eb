"""Evidence of a patient's windows: scipy's distribution, parameters recovered, the number of windows says nothing."""

from dataclasses import replace

import numpy as np
import pytest
from cohort_toys import toy_cohort
from scipy.stats import dirichlet_multinomial
from sklearn.metrics import roc_auc_score

from medcore.errors import MedcoreError
from medcore.evaluation.scores import Scores
from medcore.evaluation.thresholds import operating_curve
from medcore.studies.diagnosis import reader
from medcore.studies.diagnosis.aggregation import (
    Evidence,
    fit_dirichlets,
    fit_evidence,
    level_counts,
    log_likelihood,
    strong_cut,
    unseen_evidence,
    window_levels,
)
from medcore.studies.diagnosis.choices import EVIDENCE, DiagnosisChoices
from medcore.studies.diagnosis.nested import diagnose_windows
from medcore.studies.diagnosis.results import patient_auroc

FOUR = DiagnosisChoices(folds=4)

HEALTHY, INFECTED = (4.0, 0.4, 0.1), (2.0, 1.5, 1.0)


def draw(parameters: tuple[float, ...], windows: np.ndarray, seed: int) -> np.ndarray:
    """Counts of levels of patients with so many windows each. **Shape** ``(P,)`` to ``(P, L)``."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(parameters, len(windows))
    return np.stack([generator.multinomial(n, share) for n, share in zip(windows, shares, strict=True)]).astype(float)


def two_kinds(patients: int, *, healthy_windows: int = 8, infected_windows: int = 8, seed: int = 0):
    """Counts and truth of as many healthy as infected patients, drawn from the known distributions."""
    counts = [draw(HEALTHY, np.full(patients, healthy_windows), seed),
              draw(INFECTED, np.full(patients, infected_windows), seed + 1)]  # fmt: skip
    return np.concatenate(counts), np.repeat([0, 1], patients)


def known(truth: np.ndarray) -> Scores:
    """Validation patients of whom the truth is known."""
    count = len(truth)
    return Scores(truth, np.zeros(count), np.arange(count), np.full(count, "val"), ("healthy", "infected"))


def fit_of(counts: np.ndarray, truth: np.ndarray) -> Evidence:
    return fit_evidence(counts, known(truth))


def test_log_likelihood_is_scipys_but_for_a_constant():
    counts = draw(INFECTED, np.array([1, 2, 5, 30, 7]), seed=0)
    theirs = [[dirichlet_multinomial.logpmf(row.astype(int), alpha, int(row.sum())) for row in counts]
              for alpha in (HEALTHY, INFECTED)]  # fmt: skip
    ours = [log_likelihood(counts, alpha) for alpha in (HEALTHY, INFECTED)]
    np.testing.assert_allclose(ours[1] - ours[0], np.subtract(theirs[1], theirs[0]), atol=1e-9)


def test_the_score_is_bayes_rule_at_even_odds():
    row = np.array([[3.0, 1.0, 0.0]])
    likely = [np.exp(dirichlet_multinomial.logpmf([3, 1, 0], alpha, 4)) for alpha in (HEALTHY, INFECTED)]
    expected = likely[1] / (likely[0] + likely[1])
    assert Evidence(HEALTHY, INFECTED).score(row)[0] == pytest.approx(expected, abs=1e-12)


def test_parameters_are_recovered():
    alike = (4.0, 3.0, 2.0), (6.0, 2.0, 1.0)  # of one strength
    found = fit_dirichlets([draw(alpha, np.full(3000, 12), seed=3) for alpha in alike])
    np.testing.assert_allclose(found, alike, rtol=0.12)


def test_youdens_threshold_is_one_half():
    counts, truth = two_kinds(500)
    score = fit_evidence(counts, known(truth)).score(two_kinds(20_000, seed=9)[0])
    positive = np.repeat([False, True], 20_000)
    curve = operating_curve(positive, score)
    gain = curve.sensitivity + curve.specificity
    at_half = (score[positive] >= 0.5).mean() + (score[~positive] < 0.5).mean()
    assert gain.max() - at_half < 0.01


def test_the_number_of_windows_alone_tells_nothing():
    """Infected patients have ten times the windows, but of the same kind: the highest of many would tell them apart."""
    counts = np.concatenate([draw(HEALTHY, np.full(300, n), seed=n) for n in (3, 30)])
    truth = np.repeat([0, 1], 300)
    score = unseen_evidence(counts, known(truth), np.arange(600) % 5)
    assert abs(roc_auc_score(truth, score) - 0.5) < 0.07
    assert roc_auc_score(truth, counts[:, 1:].sum(1)) > 0.65


def test_the_number_of_windows_tells_a_whole_diagnosis_nothing():
    aurocs = []
    for seed in range(4):
        cohort = toy_cohort(60, seed=seed)
        many = np.isin(cohort.owner, np.flatnonzero(cohort.truth == 1))
        kept = many | (np.random.default_rng(seed).random(len(cohort.owner)) < 0.3)
        kept[np.unique(cohort.owner, return_index=True)[1]] = True
        dealt = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
        few = replace(cohort, owner=cohort.owner[kept], rows=np.arange(kept.sum()), counted=np.ones(kept.sum(), bool),
                      label=cohort.label[dealt], scores={"brown": cohort.score("brown")[dealt]})  # fmt: skip
        assert roc_auc_score(few.truth, few.windows_per_patient) > 0.75
        found = diagnose_windows(few, DiagnosisChoices(folds=3, seed=seed, aggregations=(EVIDENCE,)))
        aurocs.append(patient_auroc(found).value)
    assert 0.38 < np.mean(aurocs) < 0.62


def test_many_clean_windows_prove_more_than_few():
    evidence = fit_of(*two_kinds(300))
    clean = evidence.score(np.array([[1.0, 0, 0], [5, 0, 0], [50, 0, 0]]))
    assert (np.diff(clean) < 0).all() and clean[0] < 0.5
    one = evidence.score(np.array([[1.0, 1, 0], [49, 1, 0]]))
    assert one[0] > one[1]
    strong = evidence.score(np.array([[1.0, 1, 0], [1, 0, 1]]))
    assert strong[1] > strong[0]


def test_weighing_the_number_of_windows_beats_the_share():
    windows = np.random.default_rng(0).integers(1, 30, 2000)
    counts = np.concatenate([draw(HEALTHY, windows, 1), draw(INFECTED, windows, 2)])
    truth = np.repeat([0, 1], 2000)
    share = counts[:, 1:].sum(1) / counts.sum(1)
    assert (
        roc_auc_score(truth, unseen_evidence(counts, known(truth), np.arange(4000) % 5))
        > roc_auc_score(truth, share) + 0.02
    )


def test_a_patient_is_scored_by_the_other_folds_only():
    counts, truth = two_kinds(30)
    fold = np.arange(60) % 3
    changed = truth.copy()
    changed[fold == 0] = 1 - changed[fold == 0]
    before, after = unseen_evidence(counts, known(truth), fold), unseen_evidence(counts, known(changed), fold)
    assert np.array_equal(before[fold == 0], after[fold == 0])
    assert not np.array_equal(before[fold == 1], after[fold == 1])


def test_a_level_that_nobody_shows_and_one_kind_of_patient():
    counts, truth = two_kinds(10)
    counts[:, 2] = 0
    assert np.isfinite(fit_evidence(counts, known(truth)).score(np.array([[0.0, 0, 40], [40, 0, 0]]))).all()
    with pytest.raises(MedcoreError, match="all 20 patients are of one kind"):
        fit_evidence(counts, known(np.zeros(20, dtype=int)))


def test_levels_by_hand():
    score, label = np.array([0.1, 0.6, 0.7, 0.9, 0.95]), np.array([0, 1, 1, 1, -1])
    assert strong_cut(score, label, 0.65) == pytest.approx(0.8)
    level = window_levels(score, 0.65, 0.8)
    assert level.tolist() == [0, 0, 1, 2, 2]
    assert level_counts(level, np.array([0, 0, 1, 1, 1]), 3).tolist() == [[2, 0, 0], [0, 1, 2], [0, 0, 0]]
    assert strong_cut(score, np.zeros(5), 0.5) == np.inf


# --- what anybody could know --------------------------------------------------------------------------------------


def test_the_best_auroc_by_hand():
    cohort = toy_cohort(40)
    read = reader.read_windows(diagnose_windows(cohort, FOUR))
    read = read.assign(truth=0, windows=10, called=0, shown=0)
    read.loc[:3, "truth"] = 1
    read.loc[0, "called"] = read.loc[1, "shown"] = 1  # 2 and 3 are silent
    assert reader.is_silent(read).tolist() == [False, False, True, True] + [False] * 36
    assert reader.best_auroc(read, by_number=False) == pytest.approx(0.75)
    read.loc[2, "windows"], read.loc[3, "windows"] = 3, 30  # one above all the healthy, one below
    assert reader.best_auroc(read) == pytest.approx(0.75)
    read.loc[3, "windows"] = 3
    assert reader.best_auroc(read) == 1


def test_a_placebo_finds_nothing_even_where_the_infected_have_more_windows():
    cohort = toy_cohort(60)
    kept = (cohort.truth[cohort.owner] == 1) | (np.random.default_rng(0).random(len(cohort.owner)) < 0.3)
    kept[np.unique(cohort.owner, return_index=True)[1]] = True
    uneven = replace(cohort, scores={"brown": cohort.score("brown")[kept]}, label=cohort.label[kept],
                     owner=cohort.owner[kept], rows=cohort.rows[kept], counted=cohort.counted[kept])  # fmt: skip
    assert roc_auc_score(uneven.truth, uneven.windows_per_patient) > 0.75
    found = diagnose_windows(uneven, FOUR)
    assert patient_auroc(found).value > 0.85
    dealt = reader.placebo_aurocs(found, draws=20)
    assert dealt.shape == (20,) and 0.44 < dealt.mean() < 0.56  # with a strength for each kind: 0.61


def test_a_reader_of_the_annotations_is_bounded_by_what_they_show():
    cohort = toy_cohort(40)
    hidden = replace(cohort, label=np.where(cohort.level[cohort.owner] == 1, 0, cohort.label))
    full, half = (reader.reader_auroc(reader.read_windows(diagnose_windows(one, FOUR))) for one in (cohort, hidden))
    assert half < full and full > 0.85
