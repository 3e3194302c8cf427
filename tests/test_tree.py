"""The tree merges every leaf once, in an order that nothing but the leaves decides."""

from dask.local import get_sync
from hypothesis import given
from hypothesis import strategies as st

from lrh_dask.runs.tree import Partial, ReadStats, producer, tree_reduce


def joined(*parts):
    return "(" + "".join(parts) + ")"


@given(st.integers(1, 200))
def test_every_leaf_is_merged_once_and_in_order(n):
    keys = [("leaf", i) for i in range(n)]
    graph, root = tree_reduce(keys, joined, ("merge",))
    graph |= {key: producer(key, f"{i},".format) for i, key in enumerate(keys)}
    text = get_sync(graph, root).replace("(", "").replace(")", "")
    assert text == "".join(f"{i}," for i in range(n))


@given(st.integers(2, 400))
def test_depth_grows_with_the_logarithm(n):
    graph, root = tree_reduce([("leaf", i) for i in range(n)], joined, ("merge",))
    depth = root[1]
    assert 4 ** (depth - 1) < n <= 4**depth
    assert len(graph) <= n / 2 + depth


class Count:
    def __init__(self, n):
        self.n = n

    def merge(self, other):
        return Count(self.n + other.n)


def test_partials_merge_bucket_by_bucket_and_leave_their_inputs():
    a, b = {0: Count(1), 1: Count(2)}, {1: Count(10), 2: Count(20)}
    merged = Partial(a, ReadStats(3, 30, 0.5, zero_weight_rows=2, peak_worker_bytes=7)).merge(
        Partial(b, ReadStats(4, 40, 0.25, zero_x_rows=1, peak_worker_bytes=5)))
    assert {k: v.n for k, v in merged.states.items()} == {0: 1, 1: 12, 2: 20}
    assert merged.stats == ReadStats(7, 70, 0.75, 1, 0, 2, peak_worker_bytes=7)
    assert {k: v.n for k, v in a.items()} == {0: 1, 1: 2}
