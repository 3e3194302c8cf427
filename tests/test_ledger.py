"""Every state says which rows it has counted: none counts twice, and none is left out unseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrh_dask import Pairs, fit, open_pairs, write_pairs
from lrh_dask.errors import RunFailed
from lrh_dask.linalg.gathering import reduce_to_triangle
from lrh_dask.linalg.ledger import Ledger
from lrh_dask.linalg.reduced_pairs import reduce_pairs
from lrh_dask.linalg.row_gram import RowGram
from lrh_dask.runs import graph, leaves, tree

NUMBERS = st.frozensets(st.integers(0, 30))


def of(numbers):
    return Ledger.of((n, n + 1) for n in numbers)


def numbers_of(ledger):
    return {n for start, stop in ledger.spans.tolist() for n in range(start, stop)}


@given(NUMBERS, NUMBERS, NUMBERS)
def test_disjoint_ledgers_merge_as_sets_do_in_any_order(a, b, c):
    b, c = b - a, c - a - b
    merged = of(a).merge(of(b)).merge(of(c))
    assert numbers_of(merged) == a | b | c
    assert merged == of(c).merge(of(a).merge(of(b))) == Ledger.union([of(b), of(c), of(a)])
    assert merged.n_rows == len(a | b | c)
    assert of(a).merge(Ledger.of(())) == Ledger.of(()).merge(of(a)) == of(a)


@given(NUMBERS, NUMBERS)
def test_ledgers_that_share_a_row_are_never_merged(a, b):
    if a & b:
        with pytest.raises(RunFailed, match=rf"rows {min(a & b)}-\d+ in both"):
            of(a).merge(of(b))
        with pytest.raises(RunFailed, match="twice"):
            Ledger.union([of(a), of(()), of(b)])


@given(NUMBERS, NUMBERS)
def test_what_one_ledger_lacks_is_the_difference_of_sets(a, b):
    assert numbers_of(of(a).without(of(b))) == a - b


@given(NUMBERS)
def test_spans_neither_overlap_nor_touch(numbers):
    spans = of(numbers).spans
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] > spans[:-1, 1]).all()


def test_spans_within_spans_overlap_too():
    with pytest.raises(RunFailed, match="rows 6-7 in both"):
        Ledger.of([(0, 10), (2, 3), (6, 8)][::2])


def states(n_counted, ledger):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, n_counted, 3))
    return [replace(state, ledger=ledger) for state in (
        reduce_to_triangle(x, y), reduce_pairs(x, y, max_rank=2))]


@pytest.mark.parametrize("n_pairs", [(4, 4), (4, 0), (0, 4), (0, 0)])
def test_states_merge_their_ledgers_also_where_no_row_counts(n_pairs):
    ours, theirs = (states(n, Ledger.of([span])) for n, span in zip(
        n_pairs, [(0, 4), (4, 9)], strict=True))
    for one, other in zip(ours, theirs, strict=True):
        assert one.merge(other).ledger == Ledger.of([(0, 9)])
        with pytest.raises(RunFailed, match="twice"):
            one.merge(other).merge(other)


def test_products_over_the_same_features_are_not_added_twice():
    gram = RowGram(np.eye(2), Ledger.of([(0, 7)]))
    with pytest.raises(RunFailed, match="rows 0-6 in both"):
        gram.merge(gram)


ROUTES = {"all of R^D": (400, 6, {}), "a fitted basis": (400, 30, {"basis": 4}),
          "whole pairs": (40, 1100, {})}


def known_pairs(folder, make_pairs, route):
    n, d, asked = ROUTES[route]
    made = make_pairs(0, n, d, [3.0, -1.0], noise=0.05)
    store = write_pairs(folder / "a.zarr", made.x, made.y, chunk_rows=n // 20)
    return open_pairs(store), asked


@pytest.mark.parametrize("route", ROUTES)
def test_a_tree_that_takes_a_leaf_twice_ends_without_a_result(tmp_path, make_pairs, monkeypatch,
                                                              route):
    pairs, asked = known_pairs(tmp_path, make_pairs, route)
    fit(pairs, **asked)
    monkeypatch.setattr(graph, "tree_reduce", lambda keys, merge, name: tree.tree_reduce(
        [*keys, keys[0]], merge, name))
    with pytest.raises(RunFailed, match="in both"):
        fit(pairs, **asked)


@pytest.mark.parametrize("route", ROUTES)
def test_a_tree_that_forgets_a_leaf_ends_without_a_result(tmp_path, make_pairs, monkeypatch, route):
    pairs, asked = known_pairs(tmp_path, make_pairs, route)
    monkeypatch.setattr(graph, "tree_reduce", lambda keys, merge, name: tree.tree_reduce(
        keys[:-1] or keys, merge, name))
    with pytest.raises(RunFailed, match=r"left out|uncut"):
        fit(pairs, **asked)


def test_rows_without_weight_are_in_the_ledger_and_not_in_the_count(make_pairs):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    weight = np.ones(400)
    weight[:100] = 0.0
    assert fit(Pairs(made.x, made.y, weight)).n_pairs == 300


def test_a_leaf_that_reads_other_rows_than_its_own_ends_without_a_result(tmp_path, make_pairs,
                                                                         monkeypatch):
    pairs, _ = known_pairs(tmp_path, make_pairs, "all of R^D")
    blocks = leaves._in_blocks

    def without_the_last_row(pairs, run, slab_rows):
        for slab, bucket in blocks(pairs, run, slab_rows):
            yield slab.rows(slab.start, slab.start + len(slab.x) - 1), bucket

    monkeypatch.setattr(leaves, "_in_blocks", without_the_last_row)
    with pytest.raises(RunFailed, match="left out"):
        fit(pairs)


@given(NUMBERS, st.integers(0, 30), st.integers(1, 5))
def test_rows_overlap_where_they_share_one(numbers, start, n):
    assert of(numbers).overlaps(start, start + n) == bool(numbers & set(range(start, start + n)))
