"""Tasks are pure functions of their arguments."""

import numpy as np

from lrh_dask.linalg.reduced_pairs import reduce_pairs
from lrh_dask.runs.basis import find_basis
from lrh_dask.runs.budget import Route
from lrh_dask.runs.spec import HELD_OUT, TRAIN, Spec
from lrh_dask.runs.tree import Partial, ReadStats
from lrh_dask.statistics.asked import Asked


def test_tail_bounds_what_the_cut_basis_leaves_of_its_own_pairs():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((400, 10)) * np.linspace(2, 1, 10) @ rng.standard_normal((10, 120))
    y += 2.0 * rng.standard_normal(y.shape)
    train, held_out = np.split(y, 2)
    states = {group: reduce_pairs(part, part, max_rank=50)
              for group, part in ((TRAIN, train), (HELD_OUT, held_out))}
    spec = Spec("run", "symmetric", Asked(), Route.fitted_basis, 50, "cpu", "float64", 400,
                watched=False)
    read = Partial(states, ReadStats())
    basis = find_basis(read, read, None, spec, complete=True, spent=ReadStats())
    assert basis.n_blind < 50
    outside = np.sum(train**2) - np.sum((train @ basis.q[:, :basis.n_blind]) ** 2)
    assert outside <= basis.tail * np.sum(train**2) * (1 + 1e-12) <= 1.2 * outside
