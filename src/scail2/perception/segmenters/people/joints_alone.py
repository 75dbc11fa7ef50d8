"""The body network without what it computes for outlines: two thirds of its work, and the same joints to the last bit."""

from functools import cache
from pathlib import Path

# Of the network's five outputs: landmarks and presence. What is left out are the outline, a heat map and places in space.
_KEPT = 2
_IDENTIFIER = b"TFL3"


@cache
def joints_alone(path: Path) -> bytes:
    """A model file like the body network's with its first two outputs and the operations that these need."""
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(path.read_bytes()), 0))
    graph = model.subgraphs[0]
    graph.outputs = np.asarray(graph.outputs[:_KEPT], np.int32)
    needed, kept = set(graph.outputs.tolist()), []
    for operation in reversed(graph.operators):  # in the order in which they are carried out
        if needed.intersection(operation.outputs):
            kept.append(operation)
            needed.update(operation.inputs)
    graph.operators = kept[::-1]
    model.signatureDefs = None  # they name the outputs that are gone
    builder = flatbuffers.Builder(path.stat().st_size)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
