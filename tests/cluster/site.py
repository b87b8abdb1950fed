"""What rows work on: a family of models, and one cluster at a time that serves it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.chaos.references import References
from tests.cluster.clients import Clients
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import Manifests, rendered
from tests.cluster.operators_key import write_operators_key
from tests.cluster.redis_server import Redis
from tests.serving.family import TinyFamily
from tests.support.checkpoints import write_checkpoint

MODELS = ("a", "b")
CHANNEL = "stable"
DRAIN_S = 30.0
"""The longest request that is never cut. Short, so that a row that waits for it is short too."""
_CONTEXT = 32_768


class Site:
    """Rows that need no cluster of their own share one."""

    def __init__(self, root: Path, out: Path) -> None:
        """root: an empty folder of a short name, as Ray's sockets lie in it.   out: gets logs."""
        self._root, self._out = root, out
        self._numbers = count(1)
        self.family = TinyFamily(root)
        for seed, name in enumerate(MODELS):
            write_checkpoint(root / name, "mixtral", seed, max_position_embeddings=_CONTEXT)
        self.release = self.family.publish(MODELS)
        self.references = References(root)
        self.references.add(self.release, {name: name for name in MODELS})
        keys = root / "keys.yaml"
        self.key = write_operators_key(keys)
        self._args = {
            "device": "cpu",
            "dtype": "float32",
            "kv_tokens": 200_000,
            "keys": str(keys),
            "log_output": str(out / "lines.json"),
        }
        self.manifests = rendered(self.family.url, out, DRAIN_S, self._args)
        self.cluster: Cluster | None = None

    def of_overlay(self, overlay: str) -> Manifests:
        """Another set than that of one GPU."""
        return rendered(self.family.url, self._out, DRAIN_S, self._args, overlay)

    def fresh(self, redis: Redis | None = None, manifests: Manifests | None = None) -> Cluster:
        """A head and two workers, where nothing is deployed yet.   manifests: None: the site's"""
        self.close()
        folder = self._root / f"c{next(self._numbers)}"
        folder.mkdir()
        self.cluster = Cluster(folder, manifests or self.manifests, redis)
        self.cluster.start_head()
        self.cluster.add_workers(2)
        return self.cluster

    def serving(self, engines: int) -> Cluster:
        """A cluster in which as many engines serve: the last row's, if there is one."""
        self.publish()
        cluster = self.cluster or self.fresh()
        cluster.deploy(self.manifests.with_changes(engines=engines))
        cluster.until_running(engines)
        cluster.until_reached()
        return cluster

    def publish(self) -> None:
        self.family.registry.move_channel(CHANNEL, self.release)

    def another_release(self) -> str:
        """One with a model more, that no channel names."""
        names = (*MODELS, "c")
        if not (self.family.root / "c").exists():
            write_checkpoint(
                self.family.root / "c", "mixtral", len(MODELS), max_position_embeddings=_CONTEXT
            )
        release = self.family.publish(names)
        self.references.add(release, {name: name for name in names})
        return release

    def close(self) -> None:
        """Ends the cluster, and keeps its logs."""
        if self.cluster is None:
            return
        cluster, self.cluster = self.cluster, None
        cluster.close()
        kept = self._out / cluster.out.name
        kept.mkdir(exist_ok=True)
        for logs in cluster.out.glob("n*/session_2*/logs"):
            shutil.copytree(logs, kept / logs.parts[-3], dirs_exist_ok=True, symlinks=True)
        for log in cluster.out.glob("n*.log"):
            shutil.copy(log, kept)

    @contextmanager
    def clients(self, cluster: Cluster) -> Iterator[Clients]:
        """They ask the proxies of all workers."""
        addresses = [node.proxy for node in cluster.workers]
        clients = Clients(addresses, self.key, MODELS, self.references)
        try:
            yield clients
        finally:
            clients.close()
