"""Counter-based random numbers: a function of the key, uniform, independent of neighbours."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from medcore.training.randomness import keys, mix, model_randomness, normal, permutation, uniform


def splitmix(word: int) -> int:
    """The finaliser in Python's own whole numbers."""
    mask = (1 << 64) - 1
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)


def test_mix_is_the_published_function() -> None:
    words = [0, 1, 2, 12345678901234567, (1 << 63) - 1, -1, -98765]
    expected = [splitmix(word & ((1 << 64) - 1)) for word in words]
    assert [value & ((1 << 64) - 1) for value in mix(torch.tensor(words)).tolist()] == expected


def test_draws_do_not_depend_on_neighbours() -> None:
    ids = torch.arange(1000)
    together = uniform(keys(ids, 3, 5, 1), 7)
    chosen = torch.tensor([999, 4, 17])
    assert torch.equal(uniform(keys(chosen, 3, 5, 1), 7), together[chosen])
    assert torch.equal(uniform(keys(ids, 3, 5, 1), 2, start=5), together[:, 5:])


def test_draws_are_uniform_and_normal() -> None:
    ids = torch.arange(20_000)
    numbers = uniform(keys(ids, 0, 1, 2), 3).numpy()
    assert 0 <= numbers.min() and numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(numbers.T)[np.triu_indices(3, 1)]).max() < 0.03
    gaussian = normal(keys(ids, 0, 1, 2), 5).numpy()
    for column in gaussian.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(gaussian.T)[np.triu_indices(5, 1)]).max() < 0.03


def test_every_word_of_the_key_matters() -> None:
    ids = torch.arange(500)
    variants = [keys(ids, *words) for words in ((0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (1, 0, 2))]
    assert len(torch.unique(torch.cat(variants))) == 2500


def test_permutation_visits_all_and_changes_by_epoch() -> None:
    ids = torch.arange(100, 200)
    first, second = permutation(ids, 0, 1), permutation(ids, 0, 2)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert not torch.equal(first, second) and torch.equal(first, permutation(ids, 0, 1))
    # the order of the rest stays when samples are left out
    kept = [position for position in first.tolist() if position % 2 == 0]
    assert [2 * position for position in permutation(ids[::2], 0, 1).tolist()] == kept


def test_model_randomness_puts_the_callers_generator_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with model_randomness(1, 2, 0, torch.device("cpu")):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with model_randomness(1, 2, 0, torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)
    with model_randomness(1, 2, 1, torch.device("cpu")):
        assert not torch.equal(torch.rand(3), first)
