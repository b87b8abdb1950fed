"""The router that Ray Serve makes in each ingress: a job goes where its model is. Decides nothing
itself: `preference` does.
"""

from collections.abc import Mapping
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serve_app.serving.routing.preference import Candidate, ranked, sought_by
from serve_app.serving.routing.replica_facts import ReplicaFacts


class ResidencyRouter(RequestRouter):
    """Of jobs that replicas have, it knows what they said with their last answers here."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """All replicas, the best first: Serve takes the first that says how busy it is."""
        job: Any = None
        if pending_request is not None:
            # Else Serve, where none of them answers, would ask again without a pause.
            pending_request.routing_context.should_backoff = True
            job = next(iter(pending_request.args), None)
        known = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        candidates = [
            Candidate(
                name,
                self.replica_queue_len_cache.get(replica.replica_id) or 0,
                ReplicaFacts.read(replica.routing_stats),
            )
            for name, replica in known.items()
        ]
        sought = sought_by(job) if isinstance(job, Mapping) else None
        return [[known[name]] for name in ranked(candidates, sought)]
