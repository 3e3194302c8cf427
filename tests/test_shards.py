"""The partition counts each row once, whatever the shape of the store."""

from hypothesis import given
from hypothesis import strategies as st

from lrh_dask.shards import N_BUCKETS, partition

SHAPES = {"n_pairs": st.integers(1, 5000), "chunk_rows": st.integers(1, 700),
          "row_bytes": st.sampled_from([8, 2**12, 2**20])}


@given(**SHAPES)
def test_every_row_is_in_one_piece_and_one_block(n_pairs, chunk_rows, row_bytes):
    split = partition(n_pairs, chunk_rows, row_bytes)
    for kind in ("blocks", "pieces"):
        rows = []
        for run in split.runs:
            for item in getattr(run, kind):
                start, stop = item if kind == "blocks" else (item.start, item.stop)
                rows += range(start, stop)
        assert rows == list(range(n_pairs))


@given(**SHAPES)
def test_a_block_is_never_read_by_two_runs(n_pairs, chunk_rows, row_bytes):
    split = partition(n_pairs, chunk_rows, row_bytes)
    blocks = [block for run in split.runs for block in run.blocks]
    assert all(start % chunk_rows == 0 for start, _ in blocks)
    assert len(set(blocks)) == len(blocks)


@given(**SHAPES)
def test_buckets_are_all_there_and_of_like_size(n_pairs, chunk_rows, row_bytes):
    split = partition(n_pairs, chunk_rows, row_bytes)
    sizes = dict.fromkeys(split.buckets, 0)
    for run in split.runs:
        for piece in run.pieces:
            sizes[piece.bucket] += piece.stop - piece.start
    assert len(sizes) == min(N_BUCKETS, n_pairs)
    assert max(sizes.values()) <= 2 * min(sizes.values()) + 2 * chunk_rows


def test_a_large_store_has_runs_of_one_bucket_each():
    split = partition(1_000_000, 4096, 8192)
    assert all(len(run.pieces) == 1 for run in split.runs)
    assert len(split.runs) % N_BUCKETS == 0


@given(**SHAPES, at_once=st.integers(1, 300))
def test_slabs_of_the_blocks_of_a_run_are_its_rows_in_parts_of_its_pieces(
        n_pairs, chunk_rows, row_bytes, at_once):
    for run in partition(n_pairs, chunk_rows, row_bytes).runs:
        slabs = [slab for block in run.blocks for slab in run.slabs(*block, at_once)]
        buckets = {row: p.bucket for p in run.pieces for row in range(p.start, p.stop)}
        assert [row for s in slabs for row in range(s.start, s.stop)] == list(buckets)
        for slab in slabs:
            assert 0 < slab.stop - slab.start <= at_once
            assert {buckets[row] for row in range(slab.start, slab.stop)} == {slab.bucket}
