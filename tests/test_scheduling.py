"""What a run costs the scheduler, the network and the workers' memory, on a simulated cluster."""

import pytest
from simulated_cluster import FitGraph, Predicted, Seconds, pack, simulate

N_WORKERS, N_LEAVES = 50, 2000
SECONDS = Seconds()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return FitGraph(tmp_path_factory.mktemp("simulated"), N_LEAVES)


@pytest.fixture(scope="module")
def predicted(graph):
    return Predicted.of(graph, N_WORKERS, 1.1, SECONDS)


@pytest.fixture(scope="module")
def measured(graph):
    return simulate(graph, N_WORKERS, seconds=SECONDS, validate=True)


def test_the_tree_is_as_deep_and_has_as_many_merges_as_predicted(graph, predicted):
    fewest, most = predicted.n_merges
    assert graph.depth == predicted.depth == 6
    assert fewest <= len(graph.merges) <= most
    assert len(graph.tasks) == N_LEAVES + len(graph.merges) + 1


def test_a_result_crosses_the_network_once_and_pairs_never(predicted, measured):
    """A merge that is stolen may fetch what its first worker held."""
    fewest, most = predicted.moved
    stolen = 4 * measured.n_steals
    assert fewest <= measured.moved <= most + stolen
    assert measured.moved_triangles <= predicted.moved_triangles + 20 * stolen
    assert measured.moved_bytes <= 1.1 * predicted.moved_bytes


def test_leaves_queue_instead_of_flooding_the_workers(predicted, measured):
    assert measured.leaves_out == 2 * N_WORKERS
    assert measured.live <= predicted.live < N_LEAVES / 10
    assert measured.live_with_copies <= predicted.live_with_copies
    assert measured.live_on_one <= predicted.live_on_one < N_LEAVES / N_WORKERS


def test_without_the_queue_results_pile_up(graph, measured):
    flooded = simulate(graph, N_WORKERS, saturation="inf", seconds=SECONDS)
    assert flooded.leaves_out == N_LEAVES
    assert flooded.live > 2 * measured.live
    assert flooded.moved < measured.moved / 4  # what the queue costs: neighbours part


def test_workers_have_work_until_the_end(predicted, measured):
    assert measured.seconds <= 1.1 * predicted.seconds


def test_the_client_does_not_hash_the_graph(graph, monkeypatch):
    """It would cost 1 ms a leaf, before any worker has a task."""
    def hashed(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr("dask._expr._tokenize_deterministic", hashed)
    assert pack(graph.submitted).frames
