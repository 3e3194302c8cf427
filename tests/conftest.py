"""Pairs of a Hessian that is known, in shards, and inputs that cannot be written to.

The fixtures are functions without state (session scope), so hypothesis may use them.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import array_api_strict
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from lrh_dask.clusters import cluster
from lrh_dask.errors import SettingsError
from lrh_dask.linalg.arrays import Device, pick_device
from lrh_dask.linalg.gathering import reduce_to_triangle

settings.register_profile("same-every-time", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("same-every-time")

ROUNDING = {"float32": 2e-5, "float64": 1e-11}
"""What a handful of merges may cost, relative to the size of the data."""


@dataclass(frozen=True)
class Pairs:
    """x, y (n, D) read-only with y = x H + b + noise, and what made them."""

    x: np.ndarray
    y: np.ndarray
    hessian: np.ndarray
    offset: np.ndarray


def _frozen(array, dtype=None):
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy


def _orthonormal(seed, n_features, k):
    """The first k columns of a rotation; it takes as long as k says."""
    square = np.random.default_rng(seed).standard_normal((n_features, n_features))
    return np.linalg.qr(square[:, :k])[0]


def _rotation(seed, n_features):
    return _orthonormal(seed, n_features, n_features)


def _make_pairs(seed, n_pairs, n_features, spectrum, *, noise=0.0, offset=0.0, condition=1.0,
                dtype=np.float64):
    """Pairs of a Hessian with the given eigenvalues, the others zero.

    noise, offset: their length relative to the root mean square length of x H.
    condition: spread of the scales of x, along axes that H does not know.
    """
    rng = np.random.default_rng(seed)
    vectors = _orthonormal(seed + 1_000_003, n_features, len(spectrum))
    hessian = (vectors * np.asarray(spectrum, dtype=float)) @ vectors.T
    x = rng.standard_normal((n_pairs, n_features))
    if condition != 1.0:
        x = x * np.logspace(0.0, -np.log10(condition), n_features) @ _rotation(seed + 7, n_features)
    y = x @ hessian
    size = np.sqrt(np.mean(np.sum(y**2, axis=1))) if n_pairs else 0.0
    b = rng.standard_normal(n_features)
    b *= offset * size / np.linalg.norm(b)
    y = y + b + rng.standard_normal(y.shape) * (noise * size / np.sqrt(n_features))
    return Pairs(_frozen(x, dtype), _frozen(y, dtype), hessian, b)


SQUARES = {"float32": 1e-6, "float64": 1e-13}
"""What sums of squares may be off by: blocks are summed in their own dtype."""


@dataclass(frozen=True)
class Shards:
    """Pairs cut into shards, some of them empty."""

    seed: int
    sizes: list[int]
    n_features: int
    rank: int
    max_rank: int
    dtype: str
    pairs: Pairs = field(repr=False)

    @property
    def parts(self):
        """(x, y) of each shard: read-only views."""
        cuts = np.cumsum(self.sizes)[:-1]
        return list(zip(np.split(self.pairs.x, cuts), np.split(self.pairs.y, cuts), strict=True))

    @property
    def rounding(self):
        return ROUNDING[self.dtype]

    @property
    def squares_within(self):
        return SQUARES[self.dtype]


@st.composite
def shards(draw, *, noise=(0.0,), offset=(0.0,), low_rank=False):
    """Up to five shards, with one of the noises and offsets.

    ``low_rank`` keeps the rank of H within ``max_rank``.
    """
    n_features, kept = draw(st.integers(1, 24)), draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    rank = draw(st.integers(1, min(n_features, kept) if low_rank else n_features))
    spectrum = np.linspace(2.0, 1.0, rank) * (-1.0) ** np.arange(rank)
    dtype, seed = draw(st.sampled_from(sorted(ROUNDING))), draw(st.integers(0, 2**16))
    pairs = _make_pairs(seed, sum(sizes), n_features, spectrum, dtype=dtype,
                        noise=draw(st.sampled_from(noise)), offset=draw(st.sampled_from(offset)))
    return Shards(seed, sizes, n_features, rank, kept, dtype, pairs)


def _merge_in_any_order(states, seed):
    """Merge two random states until one is left: any tree, any order."""
    rng, states = np.random.default_rng(seed), list(states)
    while len(states) > 1:
        first = states.pop(rng.integers(len(states)))
        second = states.pop(rng.integers(len(states)))
        states.append(first.merge(second))
    return states[0]


def _make_buckets(x, y, n_buckets, basis=None):
    """Triangles of n_buckets consecutive, nearly equal parts of the pairs."""
    parts = np.array_split(np.arange(x.shape[0]), n_buckets)
    return {i: reduce_to_triangle(x[part], y[part], basis) for i, part in enumerate(parts)}


@pytest.fixture(scope="session")
def frozen():
    """Read-only copy of an array: a write to it fails the test."""
    return _frozen


@pytest.fixture(scope="session")
def rotation():
    return _rotation


@pytest.fixture(scope="session")
def make_pairs():
    return _make_pairs


@pytest.fixture(scope="session")
def make_buckets():
    return _make_buckets


@pytest.fixture(scope="session")
def merge_in_any_order():
    return _merge_in_any_order


@pytest.fixture(scope="module")
def one_blas_thread():
    """Matrices of these tests are so small that more threads wait longer than they compute."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def strict_device():
    """A namespace with nothing beyond the standard, on a device that is not the host."""
    return Device("strict", array_api_strict, array_api_strict.Device("device1"))


@pytest.fixture(scope="session")
def gpu():
    try:
        return pick_device("gpu")
    except SettingsError as error:
        pytest.skip(f"no usable GPU: {error}")


@pytest.fixture(params=["strict_device", pytest.param("gpu", marks=pytest.mark.gpu)])
def other_device(request):
    """Each device that is not NumPy's: the strict namespace, and a GPU where there is one."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", autouse=True)
def _any_dashboard_port():
    """Of two test processes that both find Dask's usual port free, one comes too late for it.

    Dask takes another then, as it should, but tornado leaves a socket open: a ResourceWarning.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "DASHBOARD_PORT", 0)
        yield


@pytest.fixture
def lrh(capfd, monkeypatch):
    """The command line without a second for a process that imports everything anew.

    Its streams are those of its workers, too. What only a process of its own can show is tried on
    one: signals, a submitter that has gone, what a terminal can write, that it starts at all.
    """
    from lrh_dask.cli.app import main

    def run(*args, cwd, env=None):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["lrh", *map(str, args)])
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        return subprocess.CompletedProcess(args, ended.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def receiver():
    """A web server of this machine that keeps what it is sent and answers as it is told to."""
    kept = SimpleNamespace(got=[], answer=200, wait=threading.Event())
    kept.wait.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            kept.got.append((self.path, self.headers["Content-Type"],
                             self.rfile.read(int(self.headers["Content-Length"]))))
            kept.wait.wait(20)
            self.send_response(kept.answer)
            if kept.answer == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kept.url = f"http://127.0.0.1:{server.server_port}/s3cr3t"
        yield kept
        kept.wait.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def two_workers():
    """A real cluster of two worker processes; make a client of it where it is to be used."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                      dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def client(two_workers):
    """The current client of the two workers."""
    from distributed import Client

    with Client(two_workers) as client:
        yield client
