"""Finds out by gRPC reflection what a server offers, and calls it by what it learnt.

Input (JSON): {"grpc": address}
Output (JSON): {"services": [...], "methods": {service: [...]}, "live": what ServerLive answered}
"""
import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def main():
    channel = grpc.insecure_channel(json.load(sys.stdin)["grpc"])
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    services = sorted(database.get_services())
    methods = {}
    for name in services:
        if not name.startswith("grpc.reflection"):
            service = pool.FindServiceByName(name)
            methods[name] = sorted(method.name for method in service.methods)
    method = pool.FindMethodByName("inference.GRPCInferenceService.ServerLive")
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ServerLive",
        request_serializer=request.SerializeToString, response_deserializer=response.FromString)
    json.dump({"services": services, "methods": methods, "live": call(request(), timeout=10).live},
              sys.stdout)


main()
