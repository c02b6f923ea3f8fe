from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.execution import cluster
from pipeline.execution.cluster import Resources


def node(cpus: float, **labels: str) -> dict:
    return {"Alive": True, "Resources": {"CPU": cpus}, "Labels": labels}


@pytest.fixture
def small_cluster(monkeypatch):
    """What Ray says of a cluster with four CPUs, one accelerator, and one node for tasks."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "tpu": 1.0})
    monkeypatch.setattr("ray.nodes", lambda: [node(2, pool="cpu"), node(2, pool="tpu")])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Resources(actors=4), "4 actors x 1 CPUs \\+ 1 for tasks need 5 CPUs, Ray has 4"),
        (Resources(num_gpus=1), "1 actors x 1 GPUs need 1, Ray has 0"),
        (Resources(actors=2, accelerator="tpu"), "2 actors need 2 of the resource 'tpu', Ray has 1"),
        (Resources(task_nodes={"pool": "disk"}), "no node with a CPU has the labels pool=disk"),
    ],
)
@pytest.mark.usefixtures("small_cluster")
def test_what_does_not_fit_is_told_before_anything_waits_for_ever(wanted, said):
    with pytest.raises(ConfigError, match=said):
        cluster.require_capacity(wanted)


@pytest.mark.usefixtures("small_cluster")
def test_what_fits_passes():
    cluster.require_capacity(Resources(actors=1, accelerator="tpu", task_nodes={"pool": "cpu"}))


def test_nodes_that_an_autoscaler_brings_are_asked_for_and_waited_for(monkeypatch):
    asked: list[list[dict]] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0 if asked else 0.0})
    cluster.require_capacity(Resources(actors=2, num_gpus=1, wait_s=0.1))
    assert asked == [[{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 1}]]


def test_relative_paths_are_refused_inside_a_cluster(monkeypatch):
    cluster.require_shared("archive.uri", "archive")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    cluster.require_shared("archive.uri", "/archive")
    cluster.require_shared("archive.uri", "s3://cold/archive")
    with pytest.raises(ConfigError, match=r"archive\.uri is 'archive'"):
        cluster.require_shared("archive.uri", "archive")
