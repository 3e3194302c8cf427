"""LowRankHessian as an operator, against its own dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import cg, eigsh

from lrh_dask.errors import SettingsError
from lrh_dask.statistics.certificates import Certificates
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.statistics.verdicts import Verdict

SPECTRUM = np.array([4.0, -2.0, 1.0, 0.5])


def hessian_with(spectrum, vectors):
    spectrum = np.asarray(spectrum, dtype=float)
    return LowRankHessian(
        eigenvalues=spectrum, standard_errors=np.full(spectrum.size, 0.1), eigenvectors=vectors,
        n_pairs=50, certificates=Certificates(
            residual=0.1, held_out_residual=0.12, asymmetry=0.0, captured_energy=1.0, tail=0.0,
            condition=3.0, ridge=0.0, n_basis=8, n_buckets=20, centered=False,
            standard_error_note="", verdict=Verdict.noisy))


@pytest.fixture
def hessian(rotation, frozen):
    return hessian_with(SPECTRUM, frozen(rotation(0, 9)[:, :4]))


@pytest.fixture
def positive(rotation):
    return hessian_with(np.abs(SPECTRUM), rotation(0, 9)[:, :4])


@pytest.fixture
def dense(rotation):
    u = rotation(0, 9)[:, :4]
    return sum(s * np.outer(v, v) for s, v in zip(SPECTRUM, u.T, strict=True))


@pytest.fixture
def vectors(frozen):
    return frozen(np.random.default_rng(1).standard_normal((9, 3)))


def test_products_are_those_of_the_dense_matrix(hessian, dense, vectors):
    np.testing.assert_allclose(hessian.to_dense(), dense, atol=1e-14)
    np.testing.assert_allclose(hessian.matvec(vectors[:, 0]), dense @ vectors[:, 0], atol=1e-13)
    np.testing.assert_allclose(hessian.matmat(vectors), dense @ vectors, atol=1e-13)
    np.testing.assert_allclose(hessian @ vectors, dense @ vectors, atol=1e-13)
    np.testing.assert_allclose(hessian @ vectors[:, 0], dense @ vectors[:, 0], atol=1e-13)
    np.testing.assert_allclose(hessian @ list(vectors[:, 0]), dense @ vectors[:, 0], atol=1e-13)


def test_diagonal_trace_and_counts_are_those_of_the_dense_matrix(hessian, dense):
    np.testing.assert_allclose(hessian.diagonal(), np.diag(dense), atol=1e-14)
    assert hessian.trace() == pytest.approx(np.trace(dense))
    assert (hessian.shape, hessian.rank, hessian.n_features) == ((9, 9), 4, 9)
    assert hessian.index == np.count_nonzero(np.linalg.eigvalsh(dense) < -1e-9) == 1


@pytest.mark.parametrize("damping", [0.3, 5.0])
def test_a_damped_solve_inverts_the_damped_matrix(hessian, dense, vectors, damping):
    damped = dense + damping * np.eye(9)
    for b in (vectors, vectors[:, 0]):
        np.testing.assert_allclose(hessian.solve(b, damping=damping), np.linalg.solve(damped, b),
                                   atol=1e-12)


def test_an_undamped_solve_is_the_pseudo_inverse(hessian, dense, vectors):
    inverse = np.linalg.pinv(dense, rcond=1e-10)
    np.testing.assert_allclose(hessian.solve(vectors), inverse @ vectors, atol=1e-12)
    np.testing.assert_allclose(hessian.solve(vectors[:, 0]), inverse @ vectors[:, 0], atol=1e-12)


def test_logdet_is_that_of_the_damped_dense_matrix(hessian, positive, dense):
    sign, wanted = np.linalg.slogdet(dense + 2.5 * np.eye(9))
    assert sign == 1.0
    assert hessian.logdet(damping=2.5) == pytest.approx(wanted)
    assert positive.logdet(damping=1e-3) == pytest.approx(
        np.linalg.slogdet(positive.to_dense() + 1e-3 * np.eye(9))[1])


def test_logdet_refuses_what_is_not_positive_definite_and_says_which_damping_is(hessian, positive):
    for damping in (0.5, 2.0):
        with pytest.raises(SettingsError, match="Use a damping above 2"):
            hessian.logdet(damping=damping)
    with pytest.raises(SettingsError, match="Use a damping above 0"):
        positive.logdet(damping=0.0)


def test_a_solve_that_would_be_infinite_is_refused(hessian, rotation):
    with pytest.raises(SettingsError, match="exactly -2"):
        hessian.solve(np.ones(9), damping=2.0)
    with pytest.raises(SettingsError, match="exactly 0"):
        hessian_with([1.0, 0.0], rotation(0, 9)[:, :2]).solve(np.ones(9))


@pytest.mark.parametrize("damping", [-1.0, np.nan, np.inf])
def test_a_damping_that_is_no_curvature_is_refused(hessian, damping):
    for method in (lambda: hessian.solve(np.ones(9), damping=damping),
                   lambda: hessian.logdet(damping=damping)):
        with pytest.raises(SettingsError, match="finite number >= 0"):
            method()


@pytest.mark.parametrize("call", [
    lambda h: h.matvec(np.ones(8)), lambda h: h.matvec(np.ones((9, 1))),
    lambda h: h.matmat(np.ones(9)), lambda h: h.matmat(np.ones((3, 9))),
    lambda h: h @ 2.0, lambda h: h @ np.ones((9, 2, 2)),
    lambda h: h.solve(np.ones(10)), lambda h: h.solve(2.0),
])
def test_a_vector_of_another_space_is_refused(hessian, call):
    with pytest.raises(SettingsError, match=r"expected shape \(9,"):
        call(hessian)


def test_scipy_sees_the_same_operator(hessian, dense, vectors):
    operator = hessian.to_scipy()
    assert operator.shape == (9, 9)
    for product in (operator, operator.T, operator.H):
        np.testing.assert_allclose(product @ vectors, dense @ vectors, atol=1e-13)
        np.testing.assert_allclose(product @ vectors[:, 0], dense @ vectors[:, 0], atol=1e-13)
        np.testing.assert_allclose(product.matmat(vectors[:, :1]), dense @ vectors[:, :1],
                                   atol=1e-13)
    np.testing.assert_allclose((2.0 * operator @ operator) @ vectors, 2.0 * dense @ dense @ vectors,
                               atol=1e-12)


def test_scipys_solvers_take_the_operator(hessian, positive, vectors):
    found = eigsh(hessian.to_scipy(), k=2, which="LM", return_eigenvectors=False)
    assert sorted(found) == pytest.approx([-2.0, 4.0])
    b = positive @ vectors[:, 0]
    x, failed = cg(positive.to_scipy(), b, rtol=1e-12)
    assert failed == 0
    np.testing.assert_allclose(positive @ x, b, atol=1e-9)


def test_a_hessian_of_rank_zero_is_the_zero_operator(rotation):
    nothing = hessian_with([], rotation(0, 9)[:, :0])
    np.testing.assert_array_equal(nothing @ np.ones(9), np.zeros(9))
    np.testing.assert_allclose(nothing.solve(np.ones(9), damping=2.0), 0.5)
    assert nothing.logdet(damping=2.0) == pytest.approx(9 * np.log(2.0))
    assert (nothing.index, nothing.trace()) == (0, 0.0)


def test_the_printed_form_shows_size_rank_residual_and_verdict(hessian):
    assert repr(hessian) == ("<LowRankHessian D=9 rank=4 n_pairs=50 eigenvalues=[4, -2, 1, ...] "
                             "residual=0.1 verdict=noisy>")
    assert hessian.curvature.startswith("1 direction of negative and 3 of positive")
