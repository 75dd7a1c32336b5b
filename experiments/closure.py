"""Several challengers at once: which of them may be called better, so that one false call has probability α at most.

Closed testing with averages (Vovk & Wang 1912.06116, on testing multiple hypotheses, where E*_k is their adjusted
e-value). Let E_k be an e-process against "challenger k is not better". Then k is
called better once

    E*_k = min { mean of E_j over j in S : S a set of challengers with k in it } ≥ 1/α

Why that is enough: let k be called falsely, and let T be the set of all challengers that are not better, k among them.
Then the mean over T was at least E*_k ≥ 1/α. But that mean is one e-process from 1, whatever the challengers have to do
with each other, and ever reaches 1/α with probability α at most (Ville). So any false call at all has that probability.

E_k ≥ K/α always suffices, since no mean of K falls below a K-th of its greatest part: e-Bonferroni never calls more.
"""

from collections.abc import Sequence

import numpy as np


def closed_means(log_e: Sequence[float]) -> list[float]:
    """ln E*_k for each k, of the log e-values in `log_e`.

    Of all sets of one size that hold k, the one with the least others has the least mean; so K means are enough.
    """
    return [_least_mean(value, sorted((*log_e[:k], *log_e[k + 1 :]))) for k, value in enumerate(log_e)]


def _least_mean(mine: float, others: Sequence[float]) -> float:
    """The least log mean of `mine` and any number of `others`, which rise."""
    sums = np.logaddexp.accumulate(np.array([mine, *others]))
    return float((sums - np.log(np.arange(1, len(sums) + 1))).min())
