"""The times that a node, a pod and a load balancer must grant, from one number. Sets none of them.

Whoever stops something must wait longer than what it stops needs: an ingress outlives the engine,
so that it can tell its clients what became of their requests; Ray outlives both; the pod outlives
Ray. If one of them is shorter than the one below, requests are cut, whatever the others say
(Ray 2.60 gives a node 30 s by default).
"""

import math
from dataclasses import dataclass

NODE_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""By which `ray start --block` is told `node_s`: in the environment of every pod of Ray."""
_TELLING_S = 10.0
"""An ingress whose engine has ended has so much longer, to tell its clients."""
_NOTICING_S = 20.0
"""Until Serve has noticed that a node is to go, and has told its replicas."""
_ENDING_S = 30.0
"""Until Ray's own processes have ended, after all requests have."""


@dataclass(frozen=True, slots=True)
class Graces:
    """In seconds, each longer than the one before.

    engine_s, ingress_s: `graceful_shutdown_timeout_s` of these deployments.
    balancer_s: the least timeout of a request in whatever stands before the endpoint.
    node_s: the value of `NODE_VARIABLE`.   pod_s: `terminationGracePeriodSeconds`.
    """

    engine_s: float
    ingress_s: float
    balancer_s: int
    node_s: float
    pod_s: int


def graces_of(longest_request_s: float) -> Graces:
    """What lets a request of this length end, whatever is stopped: `drain_s` of ServeConfig.

    Raises ValueError for a number below 0, or not finite.
    """
    if not 0 <= longest_request_s < math.inf:
        raise ValueError(f"longest_request_s: {longest_request_s} is not a length of time")
    ingress_s = longest_request_s + _TELLING_S
    node_s = ingress_s + _NOTICING_S
    return Graces(
        engine_s=longest_request_s,
        ingress_s=ingress_s,
        balancer_s=math.ceil(ingress_s),
        node_s=node_s,
        pod_s=math.ceil(node_s + _ENDING_S),
    )
