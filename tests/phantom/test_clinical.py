"""Groups, splits and scores of virtual patients."""

from collections import Counter

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.phantom.clinical import (
    DEFAULT_GROUPS,
    Case,
    draw_case,
    draw_nihss,
    group_of,
    parse_groups,
    split_of,
)


def test_groups_come_in_their_proportions_at_every_size():
    sequence = [group_of(k, DEFAULT_GROUPS) for k in range(1, 101)]
    for n in (10, 40, 100):
        counts = Counter(sequence[:n])
        for group, share in DEFAULT_GROUPS.items():
            assert abs(counts[group] - share * n) < 1.01
    assert sequence[0] == "LVO"


def test_a_split_holds_three_of_five_patients_of_each_group_for_training():
    rows = [(g := group_of(k, DEFAULT_GROUPS), split_of(k, g, DEFAULT_GROUPS, 1))
            for k in range(1, 101)]  # fmt: skip
    for group in DEFAULT_GROUPS:
        counts = Counter(split for g, split in rows if g == group)
        n = sum(counts.values())
        assert counts["train"] == pytest.approx(0.6 * n, abs=2)
        assert counts["test"] == pytest.approx(0.2 * n, abs=1)
    other = [split_of(k, group_of(k, DEFAULT_GROUPS), DEFAULT_GROUPS, 2) for k in range(1, 101)]
    assert other != [s for _, s in rows]


def test_proportions_are_read_and_scaled():
    assert parse_groups("LVO:2, wis:2") == {"LVO": 0.5, "WIS": 0.5}
    assert parse_groups("non-LVO") == {"non-LVO": 1.0}


@pytest.mark.parametrize("text", ["", "stroke", "LVO:x", "LVO:-1", "LVO:0", "LVO:nan", "LVO;WIS"])
def test_other_proportions_are_refused(text):
    with pytest.raises(SettingsError):
        parse_groups(text)


def test_cases_belong_to_their_group():
    rng = np.random.default_rng(0)
    cases = [draw_case(rng, g) for g in ("LVO", "non-LVO", "WIS") for _ in range(60)]
    assert {c.site for c in cases[:60]} == {"M1", "ICA"}
    assert {c.site for c in cases[60:120]} == {"M2", "ACA", "PCA"}
    assert {(c.site, c.side, c.onset_h) for c in cases[120:]} == {(None, None, None)}
    assert 60 < np.mean([c.age for c in cases]) < 78
    assert {c.sex for c in cases} == {"F", "M"}


def test_the_score_follows_volume_and_side():
    rng = np.random.default_rng(1)
    volumes = rng.uniform(20, 250, 400)
    sides = rng.choice(["left", "right"], 400)
    scores = np.array([
        draw_nihss(rng, Case("LVO", 70, "F", "M1", s, 3, 2), v, 0.3 * v)
        for v, s in zip(volumes, sides, strict=True)
    ])  # fmt: skip
    assert 0.6 < np.corrcoef(volumes, scores)[0, 1] < 0.95
    assert 1.5 < scores[sides == "left"].mean() - scores[sides == "right"].mean() < 4.5
    mimics = [draw_nihss(rng, Case("WIS", 70, "F"), 0, 0) for _ in range(100)]
    assert min(mimics) >= 0 and np.mean(mimics) < 4
