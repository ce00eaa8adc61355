"""Pages of a listing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.pages import page, place

KEYS = st.text(alphabet="ab019-", max_size=6)


def test_numbers_are_in_their_order() -> None:
    assert sorted(["1-10", "1-9", "2-1", "1-100"], key=place) == ["1-9", "1-10", "1-100", "2-1"]


@given(st.sets(KEYS.filter(bool), max_size=30), st.integers(1, 7))
def test_pages_give_every_row_once_and_in_order(keys: set[str], limit: int) -> None:
    seen: list[str] = []
    while found := page(keys, str, limit, seen[-1] if seen else ""):
        assert len(found) <= limit
        seen += found
    assert seen == sorted(keys, key=place)
