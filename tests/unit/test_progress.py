"""The progress of an attempt."""

from hypothesis import given
from hypothesis import strategies as st

from service.postgres.claims import Progress


@given(estimate=st.integers(0, 10_000), batches=st.lists(st.integers(0, 2_500), max_size=20))
def test_progress_never_goes_backwards_and_never_exceeds_its_estimate(estimate: int, batches: list[int]) -> None:
    progress = Progress(rows_estimated=estimate)
    seen = [(0, estimate)]
    for rows in batches:
        progress.add_rows(rows)
        assert progress.rows_estimated is not None
        seen.append((progress.rows_read, progress.rows_estimated))
    assert all(rows <= estimated for rows, estimated in seen)
    assert seen == sorted(seen)
    assert progress.rows_read == sum(batches)
    assert progress.rows_estimated == max(estimate, sum(batches))


def test_an_unknown_estimate_stays_unknown() -> None:
    progress = Progress()
    progress.add_rows(5)
    assert (progress.rows_read, progress.rows_estimated) == (5, None)
