"""One cluster for all tests of Slurm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import slurm_cluster
from support.slurm_cluster import Cluster


@pytest.fixture(scope="session")
def _one_cluster() -> Iterator[Cluster]:
    try:
        with slurm_cluster.start() as started:
            yield started
    except slurm_cluster.Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
def cluster(_one_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, without jobs."""
    yield _one_cluster
    _one_cluster.cancel_all()
