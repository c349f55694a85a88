"""A gRPC server that is not of this language: grpcio with its health service.

Prints its port, and ends with its standard input. The first argument, if there is one, is the age in
milliseconds at which it ends its connections.
"""

import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

options = []
if len(sys.argv) > 1:
    options += [
        ("grpc.max_connection_age_ms", int(sys.argv[1])),
        ("grpc.max_connection_age_grace_ms", 10_000),
    ]
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=options)
servicer = health.HealthServicer()
servicer.set("up", health_pb2.HealthCheckResponse.SERVING)
servicer.set("down", health_pb2.HealthCheckResponse.NOT_SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
