"""How far two measurements of the same thing agree: correlation, ICC, limits, bootstrap."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from strokect.core.errors import SettingsError
from strokect.core.types import FloatArray

Interval = tuple[float, float]
_Z = float(stats.norm.ppf(0.975))
NO_INTERVAL: Interval = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval; NaN where it is undefined."""

    value: float
    ci: Interval
    n: int


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two methods, in the unit of the measurements, each with a 95 % interval.

    bias : mean of (second - first). lower, upper : limits of agreement, bias -/+ 1.96 SD.
    repeatability : 1.96 sqrt(mean squared difference), for two measurements by one method, where
    the bias has to be none. ``repeatability_sd`` : 1.96 SD, where the bias is told apart.
    """

    bias: Estimate
    lower: Estimate
    upper: Estimate
    sd: float
    repeatability: float

    @property
    def repeatability_sd(self) -> Estimate:
        """Coefficient of repeatability, 1.96 SD of the differences: half the width of the limits.

        The interval is that of a standard deviation of normal differences (chi-square).
        """
        n, value = self.bias.n, _Z * self.sd
        if n < 2:
            return Estimate(float("nan"), NO_INTERVAL, n)
        low, high = (float(stats.chi2.ppf(p, n - 1)) for p in (0.975, 0.025))
        factors = (np.sqrt((n - 1) / low), np.sqrt((n - 1) / high))
        return Estimate(value, (float(value * factors[0]), float(value * factors[1])), n)


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> Estimate:
    """Pearson correlation with the interval of Fisher's z.

    first, second : (N,) paired. NaN below three pairs and where one of them does not vary.
    """
    x, y = _pairs(first, second)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(float("nan"), NO_INTERVAL, len(x))
    found = stats.pearsonr(x, y)
    if len(x) < 4 or abs(found.statistic) >= 1.0:  # Fisher's z has no finite spread here
        return Estimate(float(found.statistic), NO_INTERVAL, len(x))
    low, high = found.confidence_interval(0.95)
    return Estimate(float(found.statistic), (float(low), float(high)), len(x))


def icc(ratings: npt.ArrayLike) -> Estimate:
    """Intraclass correlation ICC(2,1): two-way random, absolute agreement, single measures [1]_.

    ratings : (N, K), one row per subject, one column per rater or method; N, K >= 2.
    The interval is that of McGraw and Wong [2]_ (ICC(A,1)). NaN where nothing varies.
    Example: the data of [1]_, 6 subjects and 4 judges, give 0.29 (0.02 to 0.76).

    .. [1] Shrout PE, Fleiss JL, Psychol Bull 1979;86:420-428.
    .. [2] McGraw KO, Wong SP, Psychol Methods 1996;1:30-46, table 7.
    """
    table = np.asarray(ratings, float)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        return Estimate(float("nan"), NO_INTERVAL, len(table))
    n, k = table.shape
    centred = table - table.mean()
    rows, columns = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - rows[:, None] - columns
    subjects = k * float(rows @ rows) / (n - 1)
    raters = n * float(columns @ columns) / (k - 1)
    error = float((rest**2).sum()) / ((n - 1) * (k - 1))
    below = subjects + (k - 1) * error + k * (raters - error) / n
    if below <= 0:
        return Estimate(float("nan"), NO_INTERVAL, n)
    value = (subjects - error) / below
    return Estimate(value, _icc_interval(value, subjects, raters, error, (n, k)), n)


def _icc_interval(
    value: float, subjects: float, raters: float, error: float, shape: tuple[int, int]
) -> Interval:
    """McGraw and Wong 1996, table 7, case 2A; arguments are the mean squares."""
    n, k = shape
    if value >= 1.0 - 1e-12:
        return (value, value)
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    spread = (a * raters) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    if spread <= 0:
        return NO_INTERVAL
    freedom = (a * raters + b * error) ** 2 / spread
    rest = k * raters + (k * n - k - n) * error
    f_low = float(stats.f.ppf(0.975, n - 1, freedom))
    f_high = float(stats.f.ppf(0.975, freedom, n - 1))
    low = n * (subjects - f_low * error) / (f_low * rest + n * subjects)
    high = n * (f_high * subjects - error) / (rest + n * f_high * subjects)
    return (low, high)


def bland_altman(first: npt.ArrayLike, second: npt.ArrayLike) -> BlandAltman:
    """Bias and 95 % limits of agreement of ``second`` against ``first`` [1]_.

    first, second : (N,) paired, one unit. Intervals by Student's t, those of the limits with the
    standard error SD sqrt(1/N + 1.96^2 / (2 (N - 1))) [2]_. NaN below two pairs.

    .. [1] Bland JM, Altman DG, Lancet 1986;1:307-310.
    .. [2] Bland JM, Altman DG, Stat Methods Med Res 1999;8:135-160.
    """
    x, y = _pairs(first, second)
    difference, n = y - x, len(x)
    if n < 2:
        nothing = Estimate(float("nan"), NO_INTERVAL, n)
        return BlandAltman(nothing, nothing, nothing, float("nan"), float("nan"))
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    t = float(stats.t.ppf(0.975, n - 1))
    of_bias, of_limit = sd / np.sqrt(n), sd * np.sqrt(1 / n + _Z**2 / (2 * (n - 1)))

    def around(value: float, error: float) -> Estimate:
        return Estimate(value, (float(value - t * error), float(value + t * error)), n)

    return BlandAltman(
        around(bias, of_bias),
        around(bias - _Z * sd, of_limit),
        around(bias + _Z * sd, of_limit),
        sd,
        _Z * float(np.sqrt(np.mean(difference**2))),
    )


def bootstrap_ci(
    statistic: Callable[[FloatArray], float],
    values: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Estimate:
    """Statistic with a 95 % bootstrap interval (BCa), whole groups drawn with replacement.

    statistic : of an array (N, ...), rows picked from ``values``. groups : (N,) labels, e.g. the
    patient of each row: rows of one patient are not independent and are drawn together; None: each
    row is its own group. The same seed gives the same interval. Where BCa is undefined (a
    statistic that does not vary among groups left out one at a time) it is the percentile interval.
    Raises SettingsError where ``groups`` does not fit.

    .. [1] Efron B, J Am Stat Assoc 1987;82:171-185.
    """
    table = np.asarray(values, float)
    labels = np.arange(len(table)) if groups is None else np.asarray(groups)
    if len(labels) != len(table):
        raise SettingsError(f"{len(labels)} group labels for {len(table)} values")
    if not len(table):
        return Estimate(float("nan"), NO_INTERVAL, 0)
    _, number = np.unique(labels, return_inverse=True)
    members = [np.flatnonzero(number == g) for g in range(int(number.max()) + 1)]
    value = float(statistic(table))
    if len(members) < 2:
        return Estimate(value, NO_INTERVAL, len(table))

    def of_groups(chosen: npt.NDArray[np.intp]) -> float:
        return float(statistic(table[np.concatenate([members[int(g)] for g in chosen])]))

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the degenerate case is handled below
            interval = stats.bootstrap(
                (np.arange(len(members)),),
                of_groups,
                n_resamples=n_resamples,
                vectorized=False,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        if np.isfinite([low, high]).all():
            return Estimate(value, (low, high), len(table))
    return Estimate(value, NO_INTERVAL, len(table))


def _pairs(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Pairs in which both values are finite. Raises SettingsError for unequal lengths."""
    x, y = np.asarray(first, float).ravel(), np.asarray(second, float).ravel()
    if len(x) != len(y):
        raise SettingsError(f"{len(x)} measurements cannot be paired with {len(y)}")
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both]
