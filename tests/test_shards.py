"""The partition counts each row once, whatever the shape of the store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrh_dask.runs import shards
from lrh_dask.runs.shards import FEWEST_RUNS, JOINED_BYTES, N_BUCKETS, partition

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


@pytest.mark.parametrize(("n_blocks", "block_bytes", "n_runs"), [
    (1, 2**20, 1), (5, 2**20, 5), (16, 2**20, 8), (39, 2**20, 10), (48, 2**21, 8),
    (39, 2**25, 20), (40, 2**25, 20), (41, 2**25, 20), (39, 2**27, 39), (40, 2**27, 40),
    (150, 2**21, 8), (3000, 2**18, 14), (4000, 2**20, 40), (4000, 2**23, 140)])
def test_small_tasks_are_joined_while_eight_are_left(n_blocks, block_bytes, n_runs):
    assert len(partition(7 * n_blocks, 7, block_bytes // 7).runs) == n_runs


@given(**SHAPES)
def test_joined_runs_are_not_much_larger_than_asked_and_leave_the_buckets_as_they_were(
        n_pairs, chunk_rows, row_bytes):
    joined = partition(n_pairs, chunk_rows, row_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "JOINED_BYTES", 0)
        alone = partition(n_pairs, chunk_rows, row_bytes)
    unit = max(run.n_pairs for run in alone.runs) * row_bytes
    assert max(run.n_pairs for run in joined.runs) * row_bytes <= 1.5 * JOINED_BYTES + unit
    assert len(joined.runs) >= min(FEWEST_RUNS, len(alone.runs))
    bucket_of = [{row: piece.bucket for run in split.runs for piece in run.pieces
                  for row in range(piece.start, piece.stop)} for split in (joined, alone)]
    assert bucket_of[0] == bucket_of[1]


@given(**SHAPES, share=st.floats(1e-6, 1.0))
def test_a_share_of_a_run_is_the_beginning_of_every_piece(n_pairs, chunk_rows, row_bytes, share):
    for run in partition(n_pairs, chunk_rows, row_bytes).runs:
        for part, piece in zip(run.beginnings(share), run.pieces, strict=True):
            n_rows = piece.stop - piece.start
            assert (part.start, part.bucket) == (piece.start, piece.bucket)
            assert 1 <= part.stop - part.start <= n_rows
            assert abs(part.stop - part.start - share * n_rows) <= 1


@given(**SHAPES)
def test_every_block_can_be_a_run_of_its_own(n_pairs, chunk_rows, row_bytes):
    split = partition(n_pairs, chunk_rows, row_bytes, one_block=True)
    assert [len(run.blocks) for run in split.runs] == [1] * -(-n_pairs // chunk_rows)


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
