"""A night adds what is new, and gives what a run of all pairs would give."""

from functools import reduce

import numpy as np
import pytest

from lrh_dask import Pairs, fit
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.nights import going_on
from lrh_dask.nights.going_on import Counted, fit_night
from lrh_dask.nights.looking_again import digest_leaf, suspects
from lrh_dask.nights.states import StoredStates
from lrh_dask.nights.totals import total_of
from lrh_dask.runs.pipeline import new_run_id
from lrh_dask.runs.segments import lay_out, with_buckets
from lrh_dask.runs.tasks import LEAST_JUDGED
from lrh_dask.runs.tree import Partial
from lrh_dask.statistics.asked import Asked
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.tokens import chunk_tokens
from lrh_dask.stores.unchanged import Unchanged
from lrh_dask.stores.windows import Segment
from lrh_dask.stores.writing import write_pairs

pytestmark = pytest.mark.usefixtures("one_blas_thread")

DAY = "2026-11-20T00:00:00Z"


def segments(*edges):
    return [Segment(a, b, DAY, DAY) for a, b in zip(edges, edges[1:], strict=False)]


def night(pairs, new, known=None, **kwargs):
    return fit_night(pairs, new, known, run_id=new_run_id(), **{
        "asked": Asked(), "basis": None, "weighting": "stored", "device": "cpu",
        "settings": {"method": "symmetric"},
        "unchanged": Unchanged(pairs, Ledger.of([(0, pairs.n_pairs)])), **kwargs})


def known_of(states):
    stored, said = states.segments()
    assert said == []
    return Counted([s.segment for s in stored], list(states.load(stored)), states.basis())


def through_disk(folder, *found):
    """What is known after so many nights, each written to disk."""
    for one in found:
        states = StoredStates(folder, {"a": 1})
        states.add(one.added, one.basis, afresh=one.read_all, has_states=one.has_states)
    return known_of(StoredStates(folder, {"a": 1}))


def edges_of(night):
    return [(segment.start, segment.stop) for segment, _ in night.added]


def same(one, other):
    for name in ("eigenvalues", "standard_errors", "eigenvectors"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.certificates.residual == other.certificates.residual


SHAPES = {  # route of the fit, in the order of design: n, D, columns asked for
    "all_features": (2000, 30, None), "fitted_basis": (3000, 60, 24),
    "fitted_basis of a sample": (70_000, 12, 6)}


@pytest.fixture(params=SHAPES)
def pairs(request, make_pairs):
    """Pairs of a known Hessian, how many of them come first, and the columns asked for."""
    n, d, basis = SHAPES[request.param]
    made = make_pairs(1, n, d, [3.0, -2.0, 1.5, 1.0], noise=0.1, offset=0.3)
    return Pairs(made.x, made.y), n - n // 50, basis


def test_a_first_night_has_the_bits_of_a_run(pairs):
    pairs, _, basis = pairs
    first = night(pairs, segments(0, pairs.n_pairs), basis=basis)
    same(first.hessian, fit(pairs, basis="auto" if basis is None else basis))
    assert first.read_all


def test_a_second_night_reads_what_is_new_and_tells_of_all(pairs, tmp_path):
    pairs, n, basis = pairs
    first = night(pairs, segments(0, n), basis=basis)
    second = night(pairs, segments(n, pairs.n_pairs), through_disk(tmp_path, first), basis=basis,
                   n_before=1)
    assert not second.read_all
    assert edges_of(second) == [(n, pairs.n_pairs)]
    row_bytes = 2 * pairs.n_features * pairs.dtype.itemsize
    assert sum(second.hessian.provenance["bytes"].values()) == row_bytes * (pairs.n_pairs - n)
    whole = fit(pairs, basis="auto" if basis is None else basis)
    assert second.hessian.n_pairs == whole.n_pairs == pairs.n_pairs
    r = min(second.hessian.rank, whole.rank)
    assert r >= 4
    np.testing.assert_allclose(second.hessian.eigenvalues[:4], whole.eigenvalues[:4],
                               atol=2 * whole.standard_errors[:4].max())
    if first.basis is None:  # over all of R^D nothing but the buckets differs
        np.testing.assert_allclose(second.hessian.certificates.residual,
                                   whole.certificates.residual, rtol=1e-6)


def test_states_on_disk_have_the_bits_of_those_in_memory(pairs, tmp_path):
    pairs, n, basis = pairs
    first = night(pairs, segments(0, n // 2, n), basis=basis)
    known = through_disk(tmp_path, first)
    for (_, kept), read in zip(first.added, known.states, strict=True):
        assert kept.stats.n_pairs == read.stats.n_pairs
        assert kept.stats.hashes == read.stats.hashes
        assert kept.stats.digests == read.stats.digests
        for bucket, state in kept.states.items():
            other = read.states[bucket]
            for name in ("rows", "gram", "sum_x", "sum_y"):
                np.testing.assert_array_equal(getattr(state, name), getattr(other, name))
            assert (state.energy, state.n_pairs, state.x_energy, state.x_length) == (
                other.energy, other.n_pairs, other.x_energy, other.x_length)
    if first.basis is None:
        assert known.basis is None
        return
    ours, reduced = first.basis.basis, first.basis.reduced
    theirs, again = known.basis.basis, known.basis.reduced
    np.testing.assert_array_equal(ours.q, theirs.q)
    assert (ours.n_blind, ours.tail, ours.outside) == (theirs.n_blind, theirs.tail, theirs.outside)
    for group, state in reduced.states.items():
        np.testing.assert_array_equal(state.y, again.states[group].y)
        np.testing.assert_array_equal(state.x, again.states[group].x)
        assert state.max_rank == again.states[group].max_rank
        assert state.tail == again.states[group].tail


def test_nights_of_any_size_count_each_pair_once(make_pairs, tmp_path):
    made = make_pairs(2, 900, 8, [2.0, -1.0], noise=0.05)
    pairs = Pairs(made.x, made.y)
    edges = [0, 500, 501, 520, 900]
    found = []
    for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False)):
        known = through_disk(tmp_path / str(i), *found) if found else None
        found.append(night(pairs, segments(a, b), known, n_before=i))
        assert found[-1].hessian.n_pairs == b
    whole = fit(pairs)
    states = reduce(Partial.merge, [p for one in found for _, p in one.added])
    total = reduce(lambda a, b: a.merge(b), states.states.values())
    assert total.n_pairs == 900
    np.testing.assert_allclose(total.sum_y, made.y.sum(axis=0))
    np.testing.assert_allclose(found[-1].hessian.eigenvalues[:2], whole.eigenvalues[:2], rtol=1e-3)


def test_nothing_new_but_another_rank_is_solved_without_reading(pairs, tmp_path):
    pairs, _, basis = pairs
    first = night(pairs, segments(0, pairs.n_pairs), basis=basis)
    second = night(pairs, [], through_disk(tmp_path, first), basis=basis, asked=Asked(rank=2))
    assert second.hessian.rank == 2
    assert sum(second.hessian.provenance["bytes"].values()) == 0
    np.testing.assert_allclose(second.hessian.eigenvalues, first.hessian.eigenvalues[:2],
                               rtol=0.01)
    third = night(pairs, [], through_disk(tmp_path / "b", first), basis=basis)
    same(third.hessian, first.hessian)


@pytest.mark.parametrize(("looked_at", "many"), [
    (going_on.LOOKED_AT, going_on.MANY_PAIRS), (300, going_on.MANY_PAIRS),
    (going_on.LOOKED_AT, 1000)])
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_a_direction_that_only_new_pairs_show_has_all_pairs_read_again(
        make_pairs, tmp_path, monkeypatch, strength, looked_at, many):
    monkeypatch.setattr(going_on, "LOOKED_AT", looked_at)
    monkeypatch.setattr(going_on, "MANY_PAIRS", many)
    made = make_pairs(3, 6000, 80, [3.0, 2.5, 2.0], noise=0.3)
    x, y = np.array(made.x), np.array(made.y)
    new = np.random.default_rng(0).standard_normal(80)
    new /= np.linalg.norm(new)
    y[5500:] += strength * np.outer(x[5500:] @ new, new)
    pairs = Pairs(x, y)
    first = night(pairs, segments(0, 5500), basis=24)
    second = night(pairs, segments(5500, 6000), through_disk(tmp_path, first), basis=24, n_before=1)
    captured = np.linalg.norm(second.basis.basis.q.T @ new)
    notices = " ".join(second.hessian.provenance["notices"])
    if strength:
        assert second.read_all
        assert captured > 0.98
        assert "all pairs were read again" in notices
        assert edges_of(second) == [(0, 5500), (5500, 6000)]
        assert sum(p.stats.n_pairs for _, p in second.added) == 6000
    else:
        assert not second.read_all
        assert "read again" not in notices
        assert second.basis.reduced.stats.n_pairs - first.basis.reduced.stats.n_pairs == (
            min(looked_at, 500))
        np.testing.assert_array_equal(second.basis.basis.q, first.basis.basis.q)


def test_what_the_look_at_new_pairs_has_missed_too_has_all_pairs_read_for_the_basis(
        make_pairs, tmp_path, monkeypatch):
    """A direction of all new pairs, and a strong one of few that were not looked at."""
    monkeypatch.setattr(going_on, "LOOKED_AT", 300)
    monkeypatch.setattr(going_on, "MANY_PAIRS", 1000)
    made = make_pairs(3, 6000, 80, [3.0, 2.5, 2.0], noise=0.3)
    x, y = np.array(made.x), np.array(made.y)
    seen, hidden = np.linalg.qr(np.random.default_rng(0).standard_normal((80, 2)))[0].T
    y[5500:] += 2.0 * np.outer(x[5500:] @ seen, seen)
    y[-8:] += 60.0 * np.outer(x[-8:] @ hidden, hidden)
    pairs = Pairs(x, y)
    first = night(pairs, segments(0, 5500), basis=24)
    second = night(pairs, segments(5500, 6000), through_disk(tmp_path, first), basis=24, n_before=1)
    assert second.read_all
    q = second.basis.basis.q
    assert min(np.linalg.norm(q.T @ seen), np.linalg.norm(q.T @ hidden)) > 0.98
    read = second.hessian.provenance["bytes"]
    row_bytes = 2 * 80 * x.itemsize
    assert read["fit"] == 6000 * row_bytes  # the pass that counted
    assert read["basis"] == (500 + 6000 + 6000) * row_bytes  # two that did not, and all pairs


@pytest.mark.long
def test_a_basis_found_in_few_noisy_pairs_is_found_anew_as_more_come(make_pairs, tmp_path):
    made = make_pairs(30, 6000, 120, [3.0, 2.5, 1.0], noise=3.0)
    pairs = Pairs(made.x, made.y)
    found, n_again = [night(pairs, segments(0, 500), basis=40)], 0
    for i in range(1, 12):
        edges = (500 * i, 500 * i + 500)
        found.append(night(pairs, segments(*edges), through_disk(tmp_path / str(i), *found),
                           basis=40, n_before=i))
        n_again += found[-1].read_all
    assert 1 <= n_again <= 5  # as pairs double
    whole = fit(pairs, basis=40)
    last = found[-1].hessian
    assert abs(last.eigenvalues[0] - 3.0) < max(4 * last.standard_errors[0],
                                                1.5 * abs(whole.eigenvalues[0] - 3.0))


def test_a_basis_is_judged_as_soon_as_few_new_pairs_a_night_make_enough(make_pairs, tmp_path):
    made = make_pairs(3, 6400, 80, [3.0, 2.5, 2.0], noise=0.3)
    x, y = np.array(made.x), np.array(made.y)
    new = np.ones(80) / np.sqrt(80)
    y[6000:] += np.outer(x[6000:] @ new, new)
    pairs = Pairs(x, y)
    found = [night(pairs, segments(0, 6000), basis=24)]
    while not found[-1].read_all or len(found) == 1:
        i = len(found)
        found.append(night(pairs, segments(5980 + 20 * i, 6000 + 20 * i),
                           through_disk(tmp_path / str(i), *found), basis=24, n_before=i))
    waiting = [0] + [sum(state.n_pairs for state in one.basis.unjudged.states.values())
                     for one in found[1:]]
    assert waiting == sorted(waiting[:-1]) + [0]  # none is judged twice
    assert 0.15 * 20 * (i - 1) < waiting[-2] < LEAST_JUDGED <= waiting[-2] + 20


def test_held_out_rows_stay_held_out_where_all_pairs_are_read_again(make_pairs, tmp_path):
    made = make_pairs(3, 6000, 80, [3.0, 2.5, 2.0], noise=0.3)
    x, y = np.array(made.x), np.array(made.y)
    new = np.ones(80) / np.sqrt(80)
    y[2000:] += 2.0 * np.outer(x[2000:] @ new, new)
    pairs = Pairs(x, y)
    found = [night(pairs, segments(0, 1000), basis=24)]
    found.append(night(pairs, segments(1000, 2000), through_disk(tmp_path, *found), basis=24,
                       n_before=1))
    again = night(pairs, segments(2000, 6000), through_disk(tmp_path / "b", *found), basis=24,
                  n_before=2)
    assert again.read_all
    laid = [{(s.start, s.stop): (s.buckets, s.block_rows) for s, _ in one.added}
            for one in (*found, again)]
    assert laid[2].items() >= (laid[0] | laid[1]).items()
    for segment, partial in again.added:
        assert set(partial.states) == set(segment.buckets)


def test_noise_alone_seldom_has_all_pairs_read_again(make_pairs, tmp_path):
    n_again = 0
    for seed in range(12):
        made = make_pairs(10 + seed, 4000, 60, [3.0, 2.0, 1.0], noise=1.0)
        x, y = np.array(made.x), np.array(made.y)
        y[3900:] += 0.5 * np.random.default_rng(seed).standard_normal(y[3900:].shape)
        pairs = Pairs(x, y)
        first = night(pairs, segments(0, 3900), basis=20)
        second = night(pairs, segments(3900, 4000), through_disk(tmp_path / str(seed), first),
                       basis=20, n_before=1)
        n_again += second.read_all
    assert n_again <= 1


def test_few_pairs_are_read_as_a_whole_every_night(make_pairs, tmp_path):
    made = make_pairs(4, 60, 800, [3.0, 2.0], noise=0.01)
    pairs = Pairs(made.x, made.y)
    first = night(pairs, segments(0, 50))
    assert not first.has_states
    assert [p.states for _, p in first.added] == [{}]
    assert sum(d.stop - d.start for _, p in first.added for d in p.stats.digests) == 50
    same(night(pairs, segments(0, 60)).hessian, fit(pairs))


def test_states_that_cannot_be_read_are_left_out_and_named(make_pairs, tmp_path):
    tmp_path /= "night no. 1"
    made = make_pairs(6, 600, 8, [2.0], noise=0.05)
    pairs = Pairs(made.x, made.y)
    states = StoredStates(tmp_path, {"a": 1})
    for new in (segments(0, 300), segments(300, 400)):
        states.add(night(pairs, new).added, None, afresh=False)
    [second] = tmp_path.glob("*/*/000002.zarr")
    (second / "zarr.json").write_text("{}")
    stored, said = states.segments()
    assert [s.segment.stop for s in stored] == [300]
    assert "000002.zarr cannot be read" in said[0]
    states.add(night(pairs, segments(300, 600)).added, None, afresh=False)
    assert [s.segment.stop for s in states.segments()[0]] == [300, 600]
    [first] = tmp_path.glob("*/*/000001.zarr")
    chunk = next(p for p in first.glob("float64/c/*") if p.is_file())
    content = bytearray(chunk.read_bytes())
    content[10] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=r"000001\.zarr cannot be read") as caught:
        list(states.load(states.segments()[0]))
    told = str(caught.value)  # it becomes a notice of a run that goes on
    assert "no result" not in told
    assert told.endswith(")")
    assert told.count(str(tmp_path)) == 2  # where, and in which of its arrays


def test_states_of_overlapping_segments_are_never_counted_together(make_pairs, tmp_path):
    made = make_pairs(7, 600, 8, [2.0], noise=0.05)
    pairs = Pairs(made.x, made.y)
    states = StoredStates(tmp_path, {"a": 1})
    for new in (segments(0, 300), segments(200, 600)):
        states.add(night(pairs, new).added, None, afresh=False)
    assert [(s.segment.start, s.segment.stop) for s in states.segments()[0]] == [(200, 600)]


def test_what_is_counted_afresh_replaces_all_that_was_stored(make_pairs, tmp_path):
    made = make_pairs(7, 600, 8, [2.0], noise=0.05)
    pairs = Pairs(made.x, made.y)
    states = StoredStates(tmp_path, {"a": 1})
    states.add(night(pairs, segments(0, 300, 600)).added, None, afresh=True)
    states.add(night(pairs, segments(0, 100)).added, None, afresh=True)
    assert [s.segment.stop for s in StoredStates(tmp_path, {"a": 1}).segments()[0]] == [100]
    assert StoredStates(tmp_path, {"a": 2}).segments() == ([], [])  # another lineage
    assert len(list(tmp_path.glob("*/0*"))) == 1


@pytest.fixture
def stored(make_pairs, tmp_path):
    made = make_pairs(8, 250, 6, [2.0], noise=0.05)
    write_pairs(tmp_path / "pairs.zarr", made.x, made.y, chunk_rows=100)
    pairs = open_pairs(tmp_path / "pairs.zarr")
    digests = sorted(d for run in lay_out(with_buckets(segments(0, 250), 250, 100), 96).runs
                     for d in digest_leaf(pairs, run, "")[0])
    return pairs, digests, chunk_tokens(pairs, segments(0, 250)), tmp_path / "pairs.zarr"


def test_a_chunk_that_did_not_change_is_not_looked_at_again(stored):
    pairs, digests, tokens, store = stored
    assert suspects(pairs, chunk_tokens(pairs, segments(0, 250)), tokens, digests) == []
    chunk = store / "y" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes())  # another time of writing, the same checksum
    assert suspects(pairs, chunk_tokens(pairs, segments(0, 250)), tokens, digests) == []


def test_rows_of_a_chunk_that_changed_are_looked_at_again(stored):
    pairs, digests, tokens, store = stored
    chunk = store / "y" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    found = suspects(pairs, chunk_tokens(pairs, segments(0, 250)), tokens, digests)
    assert [(d.start, d.stop) for d in found] == [(100, 200)]
    (store / "x" / "c" / "0" / "0").unlink()
    found = suspects(pairs, chunk_tokens(pairs, segments(0, 250)), tokens, digests)
    assert [(d.start, d.stop) for d in found] == [(0, 100), (100, 200)]


def test_all_rows_are_looked_at_again_where_their_array_is_decoded_otherwise(stored):
    pairs, digests, tokens, store = stored
    told = store / "y" / "zarr.json"
    told.write_text(told.read_text().replace('"float64"', '"int64"').replace("0.0", "0"))
    pairs = open_pairs(store)
    found = suspects(pairs, chunk_tokens(pairs, segments(0, 250)), tokens, digests)
    assert found == digests


def test_tokens_of_chunks_without_checksums_tell_when_they_were_written(tmp_path):
    import zarr

    group = zarr.open_group(tmp_path / "p.zarr", mode="w")
    for label in ("x", "y"):
        group.create_array(label, data=np.ones((40, 3)), chunks=(10, 3))
    pairs = open_pairs(tmp_path / "p.zarr")
    before = chunk_tokens(pairs, segments(0, 40))
    assert len(set(before)) == 8 + 2  # and how those of x and of y are decoded
    group["y"][10:20] = 2.0
    after = chunk_tokens(pairs, segments(0, 40))
    assert [key for key in before if before[key] != after[key]] == ["y/c/1/0"]


def test_digests_are_of_rows_whatever_the_chunks_that_hold_them(make_pairs, tmp_path):
    made = make_pairs(9, 120, 5, [2.0])
    found = []
    for rows in (40, 120, 7):
        path = write_pairs(tmp_path / f"{rows}.zarr", made.x, made.y, chunk_rows=rows)
        [run] = lay_out(with_buckets(segments(0, 40), 40, 40), 80).runs
        found.append(digest_leaf(open_pairs(path), run, "")[0])
    assert found[0] == found[1] == found[2]
    changed = np.array(made.y)
    changed[3, 2] = np.nextafter(changed[3, 2], 10)
    other = write_pairs(tmp_path / "other.zarr", made.x, changed, chunk_rows=40)
    assert digest_leaf(open_pairs(other), run, "")[0] != found[0]


def test_a_night_merges_the_states_of_few_nights_before_it(make_pairs, tmp_path):
    made = make_pairs(7, 1400, 8, [2.0, -1.0], noise=0.05)
    pairs = Pairs(made.x, made.y)
    states, found = StoredStates(tmp_path, {"a": 1}), []
    for i in range(12):
        found.append(night(pairs, segments(100 * i, 100 * i + 100),
                           known_of(states) if found else None, n_before=i))
        states.add(found[-1].added, None, afresh=False)
    stored = states.segments()[0]
    plain = reduce(Partial.merge, states.load(stored))
    n_loaded = []

    def loading(segments, load=states.load):
        n_loaded.append(len(segments))
        return load(segments)

    states.load = loading
    first = total_of(states, stored[:11], keep=True)
    same_bits(total_of(states, stored, keep=True), plain)
    assert n_loaded == [11, 1]
    same_bits(first, reduce(Partial.merge, loading(stored[:11])))
    n_loaded.clear()
    total_of(states, stored[1:], keep=False)  # a window that has moved on
    chunk = next(p for p in states.current.glob("total.zarr/float64/c/*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-4])
    same_bits(total_of(states, stored, keep=False), plain)
    assert n_loaded == [11, 12]


def same_bits(one, other):
    assert one.stats == other.stats
    for bucket, state in one.states.items():
        for name in ("rows", "gram", "sum_x", "sum_y"):
            np.testing.assert_array_equal(getattr(state, name), getattr(
                other.states[bucket], name))
