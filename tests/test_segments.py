"""Which rows are counted, and which are kept together."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrh_dask.runs.segments import cut_into_segments, lay_out, with_buckets
from lrh_dask.runs.shards import HELD_OUT_EVERY, N_BUCKETS, partition
from lrh_dask.runs.spec import HELD_OUT, group_of
from lrh_dask.stores.windows import STEPS_A_WINDOW, Segment, Window, uncovered

NOW = "2026-11-30T00:00:00Z"
DAYS = [f"2026-11-{day:02}T12:00:00Z" for day in range(1, 29)]


def rows_of(segments):
    return [row for segment in segments for row in range(segment.start, segment.stop)]


@st.composite
def histories(draw):
    """Batches that follow each other, and disjoint segments that are stored of their rows."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=8))
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    batches = [Segment(a, b, day, day, labels) for (a, b), day, labels in zip(
        pairwise(edges), draw(st.lists(st.sampled_from(DAYS), min_size=8, max_size=8)),
        draw(st.lists(st.sampled_from([(), ("one",), ("two",)]), min_size=8, max_size=8)),
        strict=False)]
    cuts = sorted(draw(st.sets(st.integers(0, edges[-1]), max_size=8)))
    stored = [of_rows(batches, a, b) for a, b in pairwise(cuts) if draw(st.booleans())]
    return batches, stored


def of_rows(batches, start, stop):
    """The segment of rows ``start`` to ``stop``, as batches know them."""
    inside = [b for b in batches if b.start < stop and b.stop > start]
    return Segment(start, stop, min(b.first for b in inside), max(b.last for b in inside),
                   tuple(sorted({label for b in inside for label in b.labels})))


windows = st.one_of(
    st.just(Window()), st.builds(Window, days=st.integers(1, 30)),
    st.builds(Window, n_pairs=st.integers(1, 200)),
    st.builds(Window, label=st.sampled_from(["one", "two"])), st.just(Window(latest=True)))


@given(histories())
def test_what_is_uncovered_is_what_no_stored_segment_has(history):
    batches, stored = history
    left = uncovered(batches, stored)
    assert rows_of(left) == sorted(set(rows_of(batches)) - set(rows_of(stored)))
    for part in left:  # and it is still of its batch
        assert any(b.start <= part.start and part.stop <= b.stop and b.last == part.last
                   and b.labels == part.labels for b in batches)


def wanted_rows(batches, window):
    """Rows of a window by days or label, batch by batch."""
    newest = max(batches, key=lambda b: (b.last, b.stop))
    if window.days is not None:
        days = [day[:10] for day in DAYS]
        oldest = max(0, days.index(newest.last[:10]) - window.days + 1)
        return rows_of(b for b in batches if days.index(b.first[:10]) >= oldest)
    label = newest.labels if window.latest else (window.label,)
    return rows_of(b for b in batches if window == Window() or b.labels == label)


@given(histories(), windows)
def test_every_row_of_the_window_is_counted_once_and_no_other(history, window):
    batches, stored = history
    kept, fresh = window.choose(stored, batches, NOW)
    assert set(kept) <= set(stored)
    assert rows_of(cut_into_segments(fresh, window, NOW)) == rows_of(fresh)
    counted = rows_of([*kept, *fresh])
    if window.n_pairs is None:
        assert sorted(counted) == wanted_rows(batches, window)
        return
    n = min(window.n_pairs, len(rows_of(batches)))
    assert len(counted) == len(set(counted)) <= n
    newest = sorted((b.last, row) for b in batches for row in range(b.start, b.stop))[-n:]
    assert set(counted) <= {row for _, row in newest}  # whatever was stored
    assert len(counted) >= n - -(-window.n_pairs // STEPS_A_WINDOW)


def test_days_are_counted_back_from_the_newest_pair_not_from_today():
    batches = [Segment(10 * i, 10 * i + 10, day, day) for i, day in enumerate(DAYS)]
    kept, fresh = Window(days=3).choose([], batches, NOW)
    assert (kept, rows_of(fresh)) == ([], list(range(250, 280)))
    assert [s.first[:10] for s in cut_into_segments(fresh, Window(days=3), NOW)] == [
        "2026-11-26", "2026-11-27", "2026-11-28"]


A_WRONG_CLOCK = "2031-01-01T00:00:00Z"


def test_a_pair_of_days_to_come_does_not_move_the_window():
    batches = [Segment(10 * i, 10 * i + 10, day, day) for i, day in enumerate(DAYS[:20])]
    wrong = Segment(200, 210, A_WRONG_CLOCK, A_WRONG_CLOCK)
    _, fresh = Window(days=3).choose([], [*batches, wrong], NOW)
    assert rows_of(fresh) == list(range(170, 210))
    assert rows_of(Window(days=3).choose([], [wrong], NOW)[1]) == list(range(200, 210))


def test_a_pair_of_days_to_come_is_the_newest_until_others_are_appended():
    batches = [Segment(0, 100, DAYS[1], DAYS[1], ("old",)),
               Segment(100, 110, A_WRONG_CLOCK, A_WRONG_CLOCK, ("wrong",)),
               Segment(110, 210, DAYS[2], DAYS[2], ("new",)),
               Segment(210, 220, DAYS[0], DAYS[0], ("late",))]
    for n, newest in ((1, (0, 100)), (2, (100, 110)), (3, (110, 210)), (4, (110, 210))):
        _, fresh = Window(latest=True).choose([], batches[:n], NOW)
        assert rows_of(fresh) == list(range(*newest))
        _, fresh = Window(n_pairs=10).choose([], batches[:n], NOW)
        assert rows_of(fresh) == list(range(newest[1] - 10, newest[1]))


def test_pairs_of_days_to_come_are_counted_apart_from_others():
    times = [DAYS[0], A_WRONG_CLOCK, DAYS[1], "2026-11-30T20:00:00Z"]  # clocks differ
    rows = [Segment(10 * i, 10 * i + 10, time, time) for i, time in enumerate(times)]
    assert [(s.start, s.stop) for s in cut_into_segments(rows, Window(), NOW)] == [
        (0, 10), (10, 20), (20, 40)]


def test_the_newest_pairs_are_exact_at_first_and_whole_segments_later():
    batches = [Segment(0, 1000, DAYS[0], DAYS[0])]
    window = Window(n_pairs=100)
    _, fresh = window.choose([], batches, NOW)
    assert rows_of(fresh) == list(range(900, 1000))
    first = cut_into_segments(fresh, window, NOW)
    assert [s.n_pairs for s in first] == [10] * 10
    batches.append(Segment(1000, 1005, DAYS[1], DAYS[1]))
    kept, fresh = window.choose(first, batches, NOW)
    assert [(s.start, s.stop) for s in fresh] == [(1000, 1005)]
    assert kept == first[1:]  # 95 pairs: the tenth segment would make 105


def test_late_pairs_are_in_a_window_of_pairs_that_was_counted_over_later_ones():
    batches = [Segment(450 * i, 450 * i + 450, DAYS[i], DAYS[i]) for i in range(3)]
    window = Window(n_pairs=1000)
    stored = cut_into_segments(window.choose([], batches, NOW)[1], window, NOW)
    late = Segment(1350, 1650, DAYS[1].replace("T12", "T18"), DAYS[1].replace("T12", "T18"))
    kept, fresh = window.choose(stored, [*batches, late], NOW)
    counted = set(rows_of([*kept, *fresh]))
    assert counted >= {*range(1350, 1650)}
    assert 900 <= len(counted) <= 1000


def test_late_pairs_of_an_old_day_are_not_in_a_window_of_new_days():
    batches = [Segment(0, 10, DAYS[20], DAYS[20]), Segment(10, 20, DAYS[0], DAYS[0])]
    assert rows_of(Window(days=5).choose([], batches, NOW)[1]) == list(range(10))


@pytest.mark.parametrize(("text", "window"), [
    ("all", Window()), ("last 30 days", Window(days=30)), ("last 1 day", Window(days=1)),
    ("last 1,000,000 pairs", Window(n_pairs=1_000_000)), ("label run 7", Window(label="run 7")),
    ("last label", Window(latest=True))])
def test_windows_are_told_in_words(text, window):
    assert Window.parse(text) == window


@pytest.mark.parametrize("text", ["", "last", "last 0 days", "last 3 weeks", "30 days", "label"])
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match="expected 'all', 'last N days'"):
        Window.parse(text)


@given(histories(), st.integers(1, 40), st.sampled_from([8, 2**12, 2**20]), st.integers(0, 5))
def test_every_row_of_segments_is_in_one_piece_and_one_block(history, chunk_rows, row_bytes,
                                                             n_before):
    segments = with_buckets(uncovered(*history), 100, chunk_rows, n_before=n_before)
    split = lay_out(segments, row_bytes)
    assert len({run.index for run in split.runs}) == len(split.runs)
    of_segments = list(split.segments)
    assert len(of_segments) == len(segments)
    for segment, runs in zip(segments, of_segments, strict=True):
        pieces = [(p.start, p.stop) for run in runs for p in run.pieces]
        assert rows_of(Segment(a, b, "", "") for a, b in pieces) == rows_of([segment])
        blocks = [block for run in runs for block in run.blocks]
        assert rows_of(Segment(a, b, "", "") for a, b in blocks) == rows_of([segment])
        assert all(a // chunk_rows == (b - 1) // chunk_rows for a, b in blocks)


def test_one_segment_of_all_pairs_is_laid_out_as_a_run_without_segments():
    [whole] = with_buckets([Segment(0, 5000, "", "")], 5000, 100)
    assert lay_out([whole], 2**16).runs == partition(5000, 100, 2**16).runs


@given(histories(), st.integers(1, 40))
def test_a_segment_is_laid_out_the_same_beside_any_others(history, chunk_rows):
    segments = with_buckets(uncovered(*history), 100, chunk_rows)
    together = list(lay_out(segments, 8).segments)
    for segment, runs in zip(segments, together, strict=True):
        assert [run.pieces for run in runs] == [run.pieces for run in lay_out([segment], 8).runs]


def test_a_small_segment_has_few_buckets_and_one_of_them_is_held_out():
    split = lay_out(with_buckets([Segment(0, 100, "", ""), Segment(100, 200, "", "")], 20_000, 10),
                    8)
    first, second = ({p.bucket for run in runs for p in run.pieces} for runs in split.segments)
    assert len(first) == len(second) == HELD_OUT_EVERY
    assert not first & second
    assert all(sum(group_of(b) == HELD_OUT for b in found) == 1 for found in (first, second))


def test_many_small_segments_fill_all_buckets_evenly():
    segments = [Segment(100 * i, 100 * i + 100, "", "") for i in range(40)]
    split = lay_out(with_buckets(segments, 4000, 10), 8)
    sizes = dict.fromkeys(range(N_BUCKETS), 0)
    for run in split.runs:
        for piece in run.pieces:
            sizes[piece.bucket] += piece.stop - piece.start
    assert max(sizes.values()) == min(sizes.values()) == 200
