"""Numbers and lists in words."""

from __future__ import annotations

import pytest

from hftl.wording import count, duration, listed, percent, quoted, short, size


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0.0 %"), (0.0004, "under 0.1 %"), (0.125, "12.5 %"), (0.9994, "99.9 %"), (0.9996, "over 99.9 %"), (1, "100 %")],
)
def test_what_is_not_nothing_is_not_nought_percent_and_what_is_not_all_is_not_a_hundred(share: float, said: str) -> None:
    assert percent(share) == said


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e9, "5.0 GB"), (2.5e12, "2,500.0 GB")],
)
def test_bytes_are_in_decimal_units(nbytes: float, said: str) -> None:
    assert size(nbytes) == said


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (0.2, "1 s"), (59, "59 s"), (75, "1 min 15 s"), (3725, "1 h 02 min")])
def test_a_duration_has_two_units_at_the_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_list_names_the_first_and_counts_the_rest() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(1500), 2) == "0, 1 and 1,498 more"
    assert quoted(["a", "b", "c", "d"], 2) == '"a", "b" and 2 more'
    assert quoted(["a", "b", "c"], 2) == '"a", "b", "c"'  # "and 1 more" takes the room of its name
    assert (count(1, "row"), count(1200, "row")) == ("1 row", "1,200 rows")
    assert short("abcdef", 4) == "abcd... and 2 more characters"
