"""Rows that hold NaN or Inf are refused, or left out and counted; odd ones count, and are told."""

from __future__ import annotations

import json
from collections import Counter

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from lrh_dask import BadPairs, Pairs, fit, open_pairs
from lrh_dask.runs import budget, by_features
from lrh_dask.statistics.sizes import FAR, Sizes, exponents
from lrh_dask.stores import blocks

pytestmark = pytest.mark.usefixtures("one_blas_thread")

ROUTES = {"all of R^D": (400, 6, {}), "a fitted basis": (400, 30, {"basis": 4}),
          "whole pairs": (40, 1100, {}), "by features": (60, 900, {})}
CHUNK_ROWS = {"all of R^D": 20, "a fitted basis": 20, "whole pairs": 4, "by features": 40}
BAD = {3: ("x", np.nan), 17: ("y", np.inf), 18: ("y", -np.inf), 31: ("x", np.inf)}
"""Numbers, by row, of which one feature is that."""


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    if request.param == "by features":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
        monkeypatch.setattr(budget, "MAX_WHOLE_BYTES", 0)
        monkeypatch.setattr(by_features, "RUN_BYTES", 1)
    return request.param


def spoilt(x, y, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {"x": x.copy(), "y": y.copy()}
    for row, (label, value) in BAD.items():
        arrays[label][row, rng.integers(x.shape[1])] = value
    return arrays["x"], arrays["y"]


def stored(path, x, y, chunk_rows, weight=None, dtype=None):
    group = zarr.open_group(path, mode="w")
    columns = x.shape[1] if x.shape[1] < 200 else 100
    for name, a in (("x", x), ("y", y), ("weight", weight)):
        if a is not None:
            group.create_array(name, data=a if dtype is None else a.astype(dtype),
                               chunks=(chunk_rows, columns)[:a.ndim], compressors=None)
    return open_pairs(path)


def same(found, without, rtol=1e-9):
    np.testing.assert_allclose(found.eigenvalues, without.eigenvalues, rtol=rtol)
    np.testing.assert_allclose(found.to_dense(), without.to_dense(), rtol=0,
                               atol=rtol * abs(without.eigenvalues[0]))
    assert found.n_pairs == without.n_pairs


@pytest.mark.parametrize("kind", ["Zarr", "NumPy", "dask"])
def test_rows_that_are_left_out_are_as_if_of_no_weight(tmp_path, make_pairs, route, kind):
    n, d, asked = ROUTES[route]
    if kind != "Zarr" and route == "by features":
        pytest.skip("pairs in memory are not read by features")
    made = make_pairs(0, n, d, [3.0, -1.0], noise=0.05)
    x, y = spoilt(made.x, made.y)
    weight = np.ones(n)
    weight[list(BAD)] = 0.0
    weighted = stored(tmp_path / "b.zarr", made.x, made.y, CHUNK_ROWS[route], weight)
    pairs = stored(tmp_path / "a.zarr", x, y, CHUNK_ROWS[route])
    if kind == "NumPy":
        pairs, weighted = Pairs(x, y), Pairs(made.x, made.y, weight)
    if kind == "dask":
        pairs, weighted = (Pairs(*(da.from_array(a, chunks=(CHUNK_ROWS[route], d)[:a.ndim])
                                   for a in arrays))
                           for arrays in ((x, y), (made.x, made.y, weight)))
    with pytest.raises(BadPairs, match=r"NaN or Inf in [12] rows.*--bad-rows skip"):
        fit(pairs, **asked)
    found, without = fit(pairs, bad_rows="skip", **asked), fit(weighted, **asked)
    same(found, without)
    assert found.certificates.n_skipped == len(BAD)
    shards = found.provenance["skipped"]
    assert sum(shard["n"] for shard in shards) == len(BAD)
    if kind != "NumPy":
        rows = CHUNK_ROWS[route]
        assert {shard["start"]: shard["n"] for shard in shards} == Counter(
            row // rows * rows for row in BAD)
    assert any(f"{len(BAD)} of {n} rows hold NaN or Inf and were left out" in said
               for said in found.provenance["notices"])
    if kind == "NumPy":  # the user's own arrays are as they were
        assert np.isnan(x[3]).sum() == 1


def test_weights_that_are_nan_leave_their_rows_out(tmp_path, make_pairs, route):
    n, d, asked = ROUTES[route]
    made = make_pairs(0, n, d, [3.0, -1.0], noise=0.05)
    weight, zero = np.linspace(1, 2, n), np.linspace(1, 2, n)
    weight[[3, 18]], zero[[3, 18]] = np.nan, 0.0
    pairs = stored(tmp_path / "a.zarr", made.x, made.y, CHUNK_ROWS[route], weight)
    with pytest.raises(BadPairs, match=r"weight: expected finite values >= 0, got NaN"):
        fit(pairs, **asked)
    found = fit(pairs, bad_rows="skip", **asked)
    same(found, fit(stored(tmp_path / "b.zarr", made.x, made.y, CHUNK_ROWS[route], zero), **asked))
    assert found.certificates.n_skipped == 2


def test_a_store_without_bad_rows_gives_the_same_bits_either_way(make_pairs):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    one, other = (fit(Pairs(made.x, made.y), bad_rows=how) for how in ("fail", "skip"))
    assert one.eigenvectors.tobytes() == other.eigenvectors.tobytes()
    assert other.provenance["skipped"] == []


def test_negative_weights_and_numbers_beyond_squares_are_refused_all_the_same(make_pairs):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    x = made.x.copy()
    x[7, 2] = 1e200
    with pytest.raises(BadPairs, match="squares a float64 can hold"):
        fit(Pairs(x, made.y), bad_rows="skip")
    with pytest.raises(BadPairs, match="finite values >= 0"):
        fit(Pairs(made.x, made.y, np.linspace(-1, 1, 400)), bad_rows="skip")


@pytest.mark.parametrize("n_good", [0, 1])
def test_a_store_of_bad_rows_alone_is_refused(make_pairs, n_good):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    y = made.y.copy()
    y[n_good:] = np.nan
    with pytest.raises(BadPairs, match=rf"got {400 - n_good} bad ones of 400"):
        fit(Pairs(made.x, y), bad_rows="skip")


def test_a_basis_from_a_sample_leaves_them_out_too(tmp_path, make_pairs, monkeypatch):
    monkeypatch.setattr(budget, "MANY_PAIRS", 1000)
    monkeypatch.setattr(budget, "FIRST_ROWS", 200)
    made = make_pairs(0, 6000, 40, [3.0, -1.0], noise=0.05)
    x, y = made.x.copy(), made.y.copy()
    x[::50, 3] = np.nan
    found = fit(stored(tmp_path / "a.zarr", x, y, 300), basis=4, bad_rows="skip")
    assert found.n_pairs == 6000 - 120
    assert [shard["n"] for shard in found.provenance["skipped"]] == [6] * 20
    np.testing.assert_allclose(found.eigenvalues[:2], [3.0, -1.0], rtol=0.05)


def test_the_command_line_and_a_night_say_how_many(tmp_path, make_pairs, lrh):
    made = make_pairs(0, 400, 6, [3.0, -1.0], noise=0.05)
    x, y = spoilt(made.x, made.y)
    stored(tmp_path / "a.zarr", x, y, 20)
    (tmp_path / "night.yaml").write_text(json.dumps(
        {"store": "a.zarr", "runs": "runs", "cluster": {"workers": 1}}))
    refused = lrh("nightly", "night.yaml", "--json", cwd=tmp_path)
    assert refused.returncode == 3
    (tmp_path / "night.yaml").write_text(json.dumps(
        {"store": "a.zarr", "runs": "runs", "cluster": {"workers": 1}, "bad_rows": "skip"}))
    for command in (["run", "a.zarr", "--workers", "1", "--bad-rows", "skip", "--json"],
                    ["nightly", "night.yaml", "--json"]):
        done = lrh(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["n_skipped"] == 4
        assert document["skipped"] == [{"start": 0, "stop": 20, "n": 3},
                                       {"start": 20, "stop": 40, "n": 1}]
    assert document["rejected_pairs"] == 4


SCALES = {"x": 2.0 ** (FAR + 6), "y": 2.0 ** -(FAR + 6)}


@pytest.mark.parametrize("label", SCALES)
def test_rows_of_an_absurd_scale_are_told_and_count(tmp_path, make_pairs, route, label):
    n, d, asked = ROUTES[route]
    made = make_pairs(0, n, d, [3.0, -1.0], noise=0.05)
    arrays = {"x": made.x.copy(), "y": made.y.copy()}
    arrays[label][[5, 21, 22]] *= SCALES[label]
    found = fit(stored(tmp_path / "a.zarr", arrays["x"], arrays["y"], CHUNK_ROWS[route]), **asked)
    assert found.n_pairs == n
    told = {"x": found.certificates.n_far_x, "y": found.certificates.n_far_y}
    assert told == {"x": 0, "y": 0} | {label: 3}
    assert any(f"3 of {n} rows of {label} are more than 1,048,576 times longer" in said
               for said in found.provenance["notices"])


@given(st.lists(st.floats(0, 1e300), max_size=40), st.integers(0, 40))
def test_sizes_are_summed_as_if_seen_at_once_and_zeros_are_in_none(squares, cut):
    squares = np.array(squares)
    whole = Sizes.of(exponents(squares))
    parts = [Sizes.of(exponents(part)) for part in (squares[:cut], squares[cut:])]
    assert parts[0].merge(parts[1]) == parts[1].merge(parts[0])
    assert parts[0].merge(parts[1]).counts == whole.counts
    assert sum(whole.counts.values()) == np.count_nonzero(squares)


def test_rows_as_long_as_the_median_to_a_million_are_not_far():
    def n_far(*lengths):
        return Sizes.of(exponents(np.array(lengths) ** 2)).n_far

    assert n_far(1.0, 1.0, 1.0, 2.0 ** (FAR - 1), 2.0 ** -(FAR - 1), 0.0) == 0
    assert n_far(1.0, 1.0, 1.0, 2.0 ** (FAR + 1), 2.0 ** -(FAR + 2), 0.0) == 2
    assert n_far() == 0
