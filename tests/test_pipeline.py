"""The whole way from pairs to the Hessian: in this process, and on real worker processes."""

import asyncio
import os
import signal

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import lrh_dask
from lrh_dask import BadPairs, Pairs, SettingsError, fit, open_pairs, write_pairs
from lrh_dask.runs import budget
from lrh_dask.runs.budget import Route
from lrh_dask.runs.pipeline import price

POST_X = np.array([[-2.20796738, -0.30411266], [-1.40391911, -0.54950598],
                   [-0.42806159, 0.83258512]]).T
POST_Y = np.array([[-2.90303289, -0.07347936], [-3.29571902, -0.13532473],
                   [-2.85327694, 0.07932159]]).T
POST_EIGENVALUES = [2.25745730, 0.14866874]

ROUTES = {  # shapes small enough for a test, one for each route
    Route.all_features: {"n": 3000, "d": 40}, Route.whole_pairs: {"n": 200, "d": 900},
    Route.fitted_basis: {"n": 2000, "d": 600}}


@pytest.fixture(autouse=True)
def hundreds_of_features_are_many(monkeypatch):
    """Elsewhere a basis is fitted to thousands, which takes a test seconds."""
    monkeypatch.setattr(budget, "SMALL_FEATURES", 256)
    monkeypatch.setattr(budget, "MAX_FEATURES", 512)


def known(n, d, rank=6, noise=0.05, dtype=np.float32, seed=0):
    """Pairs of a Hessian with eigenvalues 1, -0.9, 0.8, ..., and those eigenvalues."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((d, rank)))[0]
    s = np.linspace(1.0, 0.5, rank) * (-1.0) ** np.arange(rank)
    x = rng.standard_normal((n, d))
    y = (x @ u * s) @ u.T
    y += noise * np.linalg.norm(y) / np.sqrt(y.size) * rng.standard_normal(y.shape)
    return x.astype(dtype), y.astype(dtype), u, s


def same_bits(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
               for name in ("eigenvalues", "standard_errors", "eigenvectors"))


@pytest.mark.parametrize("method", ["symmetric", "seed"])
def test_the_posts_example_comes_out_through_store_and_cluster(tmp_path, client, method):
    pairs = open_pairs(write_pairs(tmp_path / "post.zarr", POST_X, POST_Y))
    hessian = fit(pairs, method=method)
    np.testing.assert_allclose(hessian.eigenvalues, POST_EIGENVALUES, atol=2e-8)


def test_least_norm_rightly_gives_other_values_on_the_posts_example():
    hessian = fit(Pairs(POST_X, POST_Y), method="least_norm")
    np.testing.assert_allclose(POST_X @ hessian.to_dense(), POST_Y, atol=2e-8)
    truth = np.sqrt(np.sum(np.square(POST_EIGENVALUES)))
    assert np.linalg.norm(hessian.eigenvalues) < truth - 1e-3


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_route_finds_rank_and_eigenvalues_within_their_errors(route, dtype):
    x, y, u, s = known(**ROUTES[route], dtype=dtype)
    hessian = fit(Pairs(x, y))
    assert hessian.provenance["route"] == route.name
    assert hessian.rank == s.size
    assert np.all(np.abs(hessian.eigenvalues - s) < 4 * hessian.standard_errors + 0.02 * (
        route is Route.whole_pairs))
    error = np.linalg.norm(hessian.to_dense() - (u * s) @ u.T) / np.linalg.norm(s)
    assert error < {Route.all_features: 0.01, Route.whole_pairs: 0.08,
                    Route.fitted_basis: 0.03}[route]


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_the_residual_is_that_of_every_pair(route):
    x, y, _, _ = known(**ROUTES[route], dtype=np.float64)
    hessian = fit(Pairs(x, y + 0.3))
    left = y + 0.3 - x @ hessian.to_dense()
    if hessian.offset is not None:
        left -= hessian.offset
    assert hessian.certificates.residual == pytest.approx(
        np.linalg.norm(left) / np.linalg.norm(y + 0.3), rel=1e-6)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_cluster_and_process_give_the_same_bits(tmp_path, two_workers, route):
    x, y, _, _ = known(**ROUTES[route])
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=150))
    in_process = fit(pairs)
    with Client(two_workers):
        assert same_bits(in_process, fit(pairs))


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_numpy_dask_and_zarr_pairs_agree(tmp_path, client, route):
    x, y, _, _ = known(**ROUTES[route], dtype=np.float64)
    rows = 150
    stored = fit(open_pairs(write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=rows)))
    lazy = fit(Pairs(*(da.from_zarr(tmp_path / "a.zarr" / name) for name in "xy")))
    assert same_bits(stored, lazy)
    np.testing.assert_allclose(fit(Pairs(x, y), rank=stored.rank).eigenvalues, stored.eigenvalues,
                               atol=0.01)


def test_dask_arrays_of_any_chunks_give_what_their_numbers_give(client):
    x, y, *_ = known(**ROUTES[Route.all_features])
    weight = 1.0 + np.arange(len(x)) % 3
    cut = fit(Pairs(da.from_array(x, chunks=((1000, 700, 1300), (15, 25))),
                    da.from_array(y, chunks=((900, 2100), 40)),
                    da.from_array(weight, chunks=1111)))
    here = fit(Pairs(x, y, weight))
    np.testing.assert_allclose(cut.eigenvalues, here.eigenvalues, rtol=1e-5)
    assert cut.n_pairs == here.n_pairs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_of_exact_pairs_is_no_spectrum_and_makes_no_bucket_stand_out(dtype):
    x, y, _, s = known(6000, 300, rank=8, noise=0.0, dtype=dtype)
    hessian = fit(Pairs(x, y), basis=60)
    np.testing.assert_allclose(hessian.eigenvalues, s, rtol=1e-5)
    assert hessian.certificates.n_basis <= 24
    assert hessian.provenance["notices"] == []


MADE = {"sliced": lambda a: a[10:], "differences of rows": lambda a: a[1:] - a[:-1],
        "rechunked": lambda a: a.rechunk((700, -1)), "optimised": lambda a: dask.optimize(a[5:])[0],
        "reshaped": lambda a: a.reshape(len(a) // 2, 2, -1).reshape(len(a), -1),
        "stacked columns": lambda a: da.stack(list(a.T), axis=1),
        "persisted": lambda a: a.persist(), "persisted parts": lambda a: a[5:].persist()[5:],
        "delayed": lambda a: da.concatenate([da.from_delayed(
            dask.delayed(np.asarray)(part.compute()), part.shape, part.dtype)
            for part in (a[:1500], a[1500:])])}


@pytest.mark.parametrize("made", [
    pytest.param(made, marks=[pytest.mark.long] * (made == "stacked columns")) for made in MADE])
def test_dask_arrays_may_come_of_any_operation(tmp_path, client, made):
    x, y, *_ = known(**ROUTES[Route.all_features])
    write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=500)
    lazy = [MADE[made](da.from_zarr(tmp_path / "a.zarr" / name)) for name in "xy"]
    here = fit(Pairs(*(a.compute() for a in lazy)))
    for settings, atol in (({}, 1e-6), ({"basis": 20}, 1e-2)):  # in one pass, in two
        found = fit(Pairs(*lazy), **settings)
        assert found.n_pairs == here.n_pairs == len(lazy[0])
        np.testing.assert_allclose(found.eigenvalues, here.eigenvalues, atol=atol)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_weights_decide_which_of_two_hessians_is_found(route):
    x, y, _, s = known(**ROUTES[route], dtype=np.float64)
    other = np.arange(len(x)) % 3 == 0
    y[other] = known(**ROUTES[route], dtype=np.float64, seed=1)[1][other]
    hessian = fit(Pairs(x, y, np.where(other, 1e-6, 1.0)))
    assert hessian.rank == s.size
    np.testing.assert_allclose(hessian.eigenvalues, s, atol=0.06)
    assert hessian.n_pairs == len(x)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_a_large_offset_is_found_and_taken_off(route):
    x, y, _, s = known(**ROUTES[route], dtype=np.float64)
    b = np.random.default_rng(1).standard_normal(x.shape[1])
    b *= 100 * np.sqrt(np.mean(np.sum(y**2, axis=1))) / np.linalg.norm(b)
    hessian = fit(Pairs(x, y + b))
    assert hessian.certificates.centered
    assert np.linalg.norm(hessian.offset - b) < 1e-2 * np.linalg.norm(b)
    np.testing.assert_allclose(hessian.eigenvalues[:6], s, atol=0.06)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_pure_noise_gives_rank_zero_and_says_so(route):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, ROUTES[route]["n"], ROUTES[route]["d"]))
    hessian = fit(Pairs(x, y))
    assert hessian.rank == 0
    assert hessian.certificates.verdict.name == "inconsistent"


def test_two_calls_give_the_same_bits_and_fingerprint():
    x, y, _, _ = known(500, 30)
    a, b = fit(Pairs(x, y)), fit(Pairs(x.copy(), y.copy()))
    assert same_bits(a, b)
    assert a.provenance["fingerprint"] == b.provenance["fingerprint"]
    y[77, 3] += 1e-3
    assert fit(Pairs(x, y)).provenance["fingerprint"] != a.provenance["fingerprint"]


def test_events_tell_every_pair_once(tmp_path, client):
    x, y, _, _ = known(**ROUTES[Route.fitted_basis])
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=150))
    events = []
    fit(pairs, on_event=events.append)
    for stage in ("basis", "fit"):
        assert sum(e.n_pairs for e in events if e.stage == stage) == 2000
    assert [e.stage for e in events][-1] == "solve"


def test_a_bad_row_stops_the_run_with_its_number(tmp_path, client):
    x, y, _, _ = known(3000, 40)
    x[1234, 5] = np.nan
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=100))
    with pytest.raises(BadPairs, match="1234"):
        fit(pairs)


def test_all_zero_x_is_refused():
    _, y, _, _ = known(300, 20)
    with pytest.raises(BadPairs, match="x = 0 in all 300 rows"):
        fit(Pairs(np.zeros_like(y), y))


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_all_zero_y_is_a_hessian_of_rank_zero(route):
    x, _, _, _ = known(**ROUTES[route])
    hessian = fit(Pairs(x, np.zeros_like(x)))
    assert (hessian.rank, hessian.certificates.residual) == (0, 0.0)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_weights_that_are_all_zero_are_refused(route):
    x, y, _, _ = known(**ROUTES[route])
    with pytest.raises(BadPairs, match="weights of 0"):
        fit(Pairs(x, y, np.zeros(len(x))))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("basis", ["auto", 10])
@pytest.mark.parametrize(("scale_x", "scale_y"), [(1e160, 1.0), (1.0, 1e160), (1e-170, 1e-170)])
def test_numbers_that_cannot_be_squared_are_refused(scale_x, scale_y, basis):
    x, y, _, _ = known(300, 20, dtype=np.float64)
    with pytest.raises(BadPairs, match="1e-150 to 1e150"):
        fit(Pairs(x * scale_x, y * scale_y), basis=basis)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_cannot_be_squared_are_refused():
    x, y, _, _ = known(300, 20, dtype=np.float64)
    with pytest.raises(BadPairs, match="1e-150 to 1e150"):
        fit(Pairs(x * 1e-154, y * 1e-154), weighting="step")


@pytest.mark.parametrize("chunk_rows", [1, 4, 64])
@pytest.mark.parametrize("method", ["symmetric", "seed", "least_norm"])
def test_few_pairs_are_never_cut_however_they_are_chunked(tmp_path, method, chunk_rows):
    x, y, _, _ = known(64, 900, noise=0.0, dtype=np.float64)
    if method == "symmetric":
        y = y + 0.1 * np.random.default_rng(1).standard_normal(y.shape) * np.std(y)
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=chunk_rows))
    hessian = fit(pairs, method=method)
    true = np.linalg.norm(y - x @ hessian.to_dense()) / np.linalg.norm(y)
    assert hessian.certificates.residual == pytest.approx(true, rel=1e-6, abs=1e-10)


def test_directions_that_only_rounding_explores_bear_no_eigenvalues():
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((3000, 10)).astype(np.float32)
    x = (inside @ rng.standard_normal((10, 60)).astype(np.float32)).astype(np.float64)
    u = np.linalg.qr(rng.standard_normal((60, 5)))[0]
    y = (x @ u * [5, 4, 3, 2, 1]) @ u.T
    y += 0.1 * np.std(y) * rng.standard_normal(y.shape)
    hessian = fit(Pairs(x, y))
    assert np.abs(hessian.eigenvalues).max() < 10
    assert hessian.certificates.residual < 0.2
    assert hessian.certificates.verdict.name == "underdetermined"
    assert np.isnan(hessian.standard_errors).all()


def test_what_an_offset_explains_is_no_merit_of_the_hessian():
    x, y, _, _ = known(400, 30, noise=0.3, dtype=np.float64)
    hessian = fit(Pairs(x, y + 3000.0))
    assert hessian.certificates.residual < 1e-3
    assert hessian.certificates.verdict.name == "noisy"


def test_exact_methods_refuse_an_offset():
    with pytest.raises(SettingsError, match="no offset"):
        fit(Pairs(POST_X, POST_Y), method="seed", center=True)


def test_exact_pairs_are_consistent_to_the_coarser_precision_of_x_and_y():
    x, y, _, _ = known(20, 60, rank=2, noise=0.0, dtype=np.float32)
    hessian = fit(Pairs(x, y.astype(np.float64)), method="seed", rank=2)
    np.testing.assert_allclose(hessian.eigenvalues, [1.0, -0.5], atol=1e-3)


def test_a_fit_inside_a_task_does_not_wait_for_its_own_slot(tmp_path, client):
    x, y, _, s = known(300, 20)
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y))
    inside = client.submit(lambda: fit(pairs).eigenvalues, pure=False).result(60)
    np.testing.assert_array_equal(inside, fit(pairs).eigenvalues)
    assert inside.size == s.size


def test_an_asynchronous_client_is_refused_clearly(two_workers):
    async def attempt():
        async with Client(two_workers.scheduler_address, asynchronous=True):
            x, y, _, _ = known(300, 20)
            fit(Pairs(x, y))

    with pytest.raises(SettingsError, match="asynchronous"):
        asyncio.run(attempt())


@pytest.mark.long
def test_a_worker_killed_in_midrun_changes_no_bit(tmp_path):
    x, y, _, _ = known(8000, 200)
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y, chunk_rows=100))
    undisturbed = fit(pairs)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                      silence_logs=50) as cluster, Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))
        killed = []

        def kill_at_the_fifth_run(event):
            if event.stage == "fit" and not killed and len(seen) >= 5:
                killed.append(victim)
                os.kill(victim, signal.SIGKILL)
            seen.append(event)

        seen = []
        disturbed = fit(pairs, on_event=kill_at_the_fifth_run)
    assert killed
    assert same_bits(undisturbed, disturbed)


@pytest.mark.parametrize("n", [2, 3, 9, 10, 21])
def test_a_handful_of_exact_pairs_is_fitted_without_a_promise(n):
    x, y, _, _ = known(n, 50, rank=2, noise=0.0, dtype=np.float64)
    hessian = fit(Pairs(x, y))
    assert hessian.certificates.residual < 1e-6
    if n < 10:
        assert np.isnan(hessian.certificates.held_out_residual)
        assert hessian.certificates.verdict.name == "underdetermined"


def test_seed_refuses_noise_and_points_at_symmetric():
    x, y, _, _ = known(60, 200, dtype=np.float64)
    with pytest.raises(BadPairs, match=r"asymmetry .* = .*--method symmetric"):
        fit(Pairs(x, y), method="seed")


def test_seed_equals_symmetric_on_consistent_pairs():
    x, y, _, _ = known(60, 900, noise=0.0, dtype=np.float64)
    seed, symmetric = fit(Pairs(x, y), method="seed"), fit(Pairs(x, y), rank=6)
    np.testing.assert_allclose(seed.to_dense()[:50, :50], symmetric.to_dense()[:50, :50],
                               atol=1e-10)


@pytest.mark.parametrize("wrong", [
    {"rank": 0}, {"rank": 2.5}, {"rank": True}, {"rank": "many"}, {"method": "best"},
    {"center": "maybe"}, {"rank": 41}])
def test_a_wrong_setting_is_refused_before_anything_is_read(wrong):
    class Unreadable(np.ndarray):
        def __getitem__(self, key):
            raise AssertionError

    x, y, _, _ = known(300, 40)
    with pytest.raises(SettingsError):
        fit(Pairs(x.view(Unreadable), y), **wrong)


def test_gpu_without_a_gpu_is_a_clear_error():
    if lrh_dask.linalg.arrays.pick_device("auto").name == "gpu":
        pytest.skip("this machine has a usable GPU")
    x, y, _, _ = known(300, 20)
    with pytest.raises(SettingsError, match="--device cpu"):
        fit(Pairs(x, y), device="gpu")


@pytest.mark.parametrize("route", [
    "all_features", pytest.param("fitted_basis", marks=pytest.mark.long)])
def test_the_peak_of_a_worker_is_within_its_price(tmp_path, route):
    if route == "all_features":
        x, y, _, _ = known(20_000, 256)
    else:  # a long spectrum and few pairs a column: the held-out directions come on top
        x = np.random.default_rng(0).standard_normal((4000, 2600)).astype("f4")
        y = x / np.sqrt(np.arange(1, 2601, dtype="f4"))
    pairs = open_pairs(write_pairs(tmp_path / "a.zarr", x, y))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                      silence_logs=50) as fresh, Client(fresh) as client:
        hessian = fit(pairs)
        plan, _ = price(pairs, rank=None, method="symmetric", client=client)
    assert hessian.provenance["route"] == plan.route.name == route
    assert 50 * 2**20 < hessian.provenance["peak_worker_bytes"] <= plan.peak_worker_bytes
