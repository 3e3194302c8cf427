"""The price is known before the run, and too small a worker is refused."""

import pytest

from lrh_dask import SettingsError
from lrh_dask.runs.budget import Route, plan_run
from lrh_dask.runs.memory import Shape
from lrh_dask.runs.shards import partition

GIB = 2**30


def plan(n, d, chunk=4096, **kwargs):
    return plan_run(Shape(n, d, 4, chunk, d), partition(n, chunk, 8 * d), **kwargs)


@pytest.mark.parametrize(("n", "d", "route"), [
    (200_000, 256, Route.all_features), (2000, 650, Route.all_features),
    (300, 5000, Route.whole_pairs), (100_000, 4096, Route.fitted_basis),
    (5_000_000, 700, Route.fitted_basis), (1_000_000, 256, Route.all_features),
    (10_000_000, 256, Route.fitted_basis), (10_000_000, 64, Route.all_features)])
def test_the_route_follows_the_shape(n, d, route):
    assert plan(n, d).route is route


def test_memory_does_not_grow_with_the_number_of_pairs():
    assert plan(10**6, 4096).peak_worker_bytes <= plan(10**5, 4096).peak_worker_bytes
    assert plan(10**8, 4096).peak_worker_bytes <= plan(10**6, 4096).peak_worker_bytes


def test_two_passes_read_the_store_twice():
    assert plan(10**5, 4096).bytes_read == 2 * 10**5 * 4096 * 8


def test_a_basis_shrinks_to_the_memory_that_workers_can_use():
    small, large = plan(10**5, 200_000, 64, worker_bytes=2 * GIB), plan(10**5, 200_000, 64)
    assert small.max_basis < large.max_basis
    assert small.peak_worker_bytes <= 0.8 * 2 * GIB  # beyond, Dask pauses a worker
    assert "2048 MiB decided" in small.notice
    assert large.notice == ""


def test_a_worker_below_the_price_is_refused_with_settings_that_fit():
    small = {"worker_bytes": 300 * 2**20}
    with pytest.raises(SettingsError, match="--memory-limit") as caught:
        plan(200_000, 256, basis=255, **small)
    needed = int(str(caught.value).split("--memory-limit ")[1].split("MiB")[0])
    plan(200_000, 256, worker_bytes=needed * 2**20, basis=255)
    basis = int(str(caught.value).split("--basis ")[1].split("`")[0])
    assert plan(200_000, 256, **small, basis=basis).max_basis == basis
    with pytest.raises(SettingsError, match="--memory-limit"):
        plan(200_000, 256, worker_bytes=needed * 2**20 * 99 // 100, basis=255)


def test_a_refusal_names_the_least_limit_and_the_one_for_all_eigenvalues():
    with pytest.raises(SettingsError, match="at most 8 eigenvalues") as caught:
        plan(200_000, 256, worker_bytes=2**27)
    least, full = (int(part.split("MiB")[0])
                   for part in str(caught.value).split("--memory-limit ")[1:])
    assert least < full
    assert plan(200_000, 256, worker_bytes=least * 2**20).max_basis < 16
    assert plan(200_000, 256, worker_bytes=full * 2**20).route is Route.all_features
    assert plan(200_000, 256, worker_bytes=(full - 20) * 2**20).route is Route.fitted_basis


def test_all_features_are_kept_in_reserve_where_workers_have_room():
    roomy, tight = (plan(10**6, 1024, worker_bytes=n) for n in (8 * GIB, GIB))
    assert roomy.all_features_too
    assert not tight.all_features_too
    assert tight.peak_worker_bytes < 0.8 * GIB < roomy.peak_worker_bytes
    assert not plan(10**6, 1024, basis=64).all_features_too


def test_no_basis_is_named_where_none_fits():
    with pytest.raises(SettingsError, match="--memory-limit") as caught:
        plan(200_000, 256, basis=8, worker_bytes=GIB // 8)
    assert "--basis" not in str(caught.value)


def test_exact_methods_that_do_not_fit_point_at_symmetric():
    with pytest.raises(SettingsError, match="--method symmetric"):
        plan(10**6, 1024, method="seed", worker_bytes=4 * GIB)


@pytest.mark.parametrize("rank", [11, 1000])
def test_a_rank_out_of_reach_is_refused(rank):
    with pytest.raises(SettingsError, match="expected 1 to 10"):
        plan(100, 10, rank=rank)


def test_all_features_above_768_are_for_spectra_that_do_not_end_or_few_pairs():
    """The solve over all of R^D takes half a minute there, whatever n; see test_rounds."""
    assert plan(20_000, 1024).route is Route.fitted_basis
    assert plan(20_000, 1024).all_features_too
    assert plan(20_000, 700).route is Route.all_features
    assert plan(8_000, 1024).route is Route.all_features
    assert plan(9_000, 2560).route is Route.fitted_basis


def test_least_norm_by_features_reads_twice_and_makes_two_vectors_a_pair():
    shape = Shape(200, 2_000_000, 4, 200, 50_000)
    least, usual = (plan_run(shape, partition(200, 200, 8 * 2_000_000), method=method)
                    for method in ("least_norm", "seed"))
    assert least.route is usual.route is Route.by_features
    assert (least.bytes_read, usual.bytes_read) == (2 * shape.whole, 1.5 * shape.whole)
    assert least.peak_worker_bytes >= shape.by_features(400) > shape.by_features(200)
