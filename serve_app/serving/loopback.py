"""Keeps Serve's replicas on the loopback address where Ray is there too. Starts nothing."""

from importlib import import_module
from typing import Any

import ray
from ray._common.tls_utils import add_port_to_grpc_server


def listen_where_ray_does() -> None:
    """Have Serve's replica in this process listen on its node's address if that is the loopback.

    Serve has no setting for it: its gRPC server would listen on every address of the machine.
    """
    host = ray.util.get_node_ip_address()
    if host != "127.0.0.1":
        return

    def add_port(server: Any, _: str) -> int:
        port: int = add_port_to_grpc_server(server, f"{host}:0")
        return port

    module: Any = import_module("ray.serve._private.replica")
    module.add_port_to_grpc_server = add_port
