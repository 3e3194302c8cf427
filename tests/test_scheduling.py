"""What a run costs the scheduler, the network and the workers' memory, on a simulated cluster."""

import time

import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from fit_graph import BASIS, FitGraph, Predicted, Seconds
from scheduler_door import pack
from simulated_cluster import simulate

from lrh_dask.runs.task_spec import Task, TaskRef

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


class Watch(SchedulerPlugin):
    """Most results in memory at once, and with copies, as the scheduler knows of them."""

    def __init__(self, scheduler):
        self.scheduler, self.live, self.live_with_copies = scheduler, 0, 0

    def transition(self, *_, **__):
        n_copies = [len(ts.who_has) for ts in self.scheduler.tasks.values()
                    if ts.who_has and ts.key != BASIS]
        self.live = max(self.live, len(n_copies))
        self.live_with_copies = max(self.live_with_copies, sum(n_copies))


def wait_and_return(seconds, n_bytes, *inputs):
    time.sleep(seconds)
    return np.zeros(n_bytes // 8)


@pytest.mark.long
def test_simulated_workers_do_as_real_ones(tmp_path):
    """The same graph on a real cluster of 8 workers, with tasks that sleep instead of working."""
    graph, seconds = FitGraph(tmp_path, 200), Seconds(leaf=0.1, merge=0.01, solve=0.1)
    rng = np.random.default_rng(0)

    def lasts(key):
        return seconds.solve if key == graph.last else seconds.merge if key in graph.merges else \
            seconds.leaf * (1.0 + seconds.spread * rng.uniform(-1.0, 1.0))

    tasks = {key: Task(key, wait_and_return, lasts(key), graph.prices[key].n_bytes,
                       *(TaskRef(k) for k in task.dependencies),
                       _data_producer=task.data_producer) for key, task in graph.tasks.items()}
    with LocalCluster(n_workers=8, threads_per_worker=1, processes=False, silence_logs=50,
                      dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        basis = client.scatter({BASIS: np.zeros(graph.prices[BASIS].n_bytes // 8)})
        real = Watch(cluster.scheduler)
        cluster.scheduler.add_plugin(real)
        last, = client.get(HighLevelGraph.from_collections("sleep", tasks), [graph.last],
                           sync=False)
        last.result()
        moved = sum(key != BASIS for worker in cluster.workers.values()
                    for entry in worker.transfer_incoming_log for key in entry["keys"])
        del basis
    simulated = simulate(graph, 8, seconds=seconds)
    assert moved == pytest.approx(simulated.moved, rel=0.15)
    assert real.live == pytest.approx(simulated.live, rel=0.35)
    assert real.live_with_copies == pytest.approx(simulated.live_with_copies, rel=0.35)
