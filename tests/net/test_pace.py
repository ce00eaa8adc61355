"""Token buckets: what a second allows is saved, the rest is waited for, and in the long run the rate is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.pace import BURST, Pace, PublishRate

NOW = 1_000.0


def test_without_a_rate_there_is_no_bucket() -> None:
    assert PublishRate().pace() is None
    assert PublishRate(messages=1).pace() is not None
    assert PublishRate(bytes=1).pace() is not None


def test_a_second_is_free_and_each_further_message_is_waited_for() -> None:
    pace = Pace(PublishRate(messages=10))
    assert [pace.spend(0, NOW) > 1e-9 for _ in range(10)] == [False] * 10
    assert pace.spend(0, NOW) == pytest.approx(0.1)
    assert pace.spend(0, NOW) == pytest.approx(0.2)
    assert pace.spend(0, NOW + 0.2) == pytest.approx(0.1)


def test_bytes_count_as_well_and_the_dearer_decides() -> None:
    pace = Pace(PublishRate(messages=1_000, bytes=100))
    assert pace.spend(100, NOW) == pytest.approx(0.0)
    assert pace.spend(50, NOW) == pytest.approx(0.5)


def test_one_message_larger_than_a_second_allows_is_paid_for_later() -> None:
    pace = Pace(PublishRate(bytes=100))
    assert pace.spend(1_000, NOW) == pytest.approx(9.0)


def test_no_more_is_saved_than_a_burst() -> None:
    pace = Pace(PublishRate(messages=10))
    pace.spend(0, NOW)
    for _ in range(10):
        pace.spend(0, NOW + 1_000_000)
    assert pace.spend(0, NOW + 1_000_000) == pytest.approx(0.1)


@given(slices=st.lists(st.integers(1, 200), min_size=1, max_size=50), publishers=st.integers(1, 5))
def test_publishers_that_rest_as_told_keep_to_the_rate_together(slices: list[int], publishers: int) -> None:
    """Each sends what one read brought, then rests: the rate and one read of each is all that gets through."""
    rate = 100.0
    pace = Pace(PublishRate(messages=rate))
    ready = dict.fromkeys(range(publishers), NOW)
    sent = 0
    for size in slices:
        who = min(ready, key=lambda each: ready[each])
        now = ready[who]
        assert sent <= (now - NOW + BURST) * rate + publishers * max(slices)
        for _ in range(size):
            ready[who] = now + max(0.0, pace.spend(0, now))
        sent += size
