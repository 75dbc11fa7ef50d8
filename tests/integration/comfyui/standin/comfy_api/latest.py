"""A stand-in for ``comfy_api.latest``: only what the nodes use, with the meaning that they assume.

Assumed: a node is a class with ``define_schema()`` giving an `io.Schema` and a classmethod ``execute`` that is called with one
keyword for every input (optional ones only when connected) and gives an `io.NodeOutput`, whose ``args`` are the outputs in the
schema's order. Values that come over HTTP reach ``execute`` unchecked.
"""

from dataclasses import dataclass, field
from typing import Any


class _Input:
    def __init__(self, id: str, *, optional: bool = False, **options: Any) -> None:
        self.id, self.optional, self.options = id, optional, options


class _Output:
    def __init__(self, id: str | None = None, **options: Any) -> None:
        self.id, self.options = id, options


def _kind(name: str) -> type:
    return type(
        name, (), {"Input": type("Input", (_Input,), {"io_type": name}), "Output": type("Output", (_Output,), {})}
    )


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Any]
    outputs: list[Any]
    description: str = ""
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802 - ComfyUI's name
        return cls.define_schema()


class ComfyExtension:
    async def get_node_list(self) -> list[type[ComfyNode]]:
        raise NotImplementedError


@dataclass
class _IO:
    ComfyNode: type = ComfyNode
    Schema: type = Schema
    NodeOutput: type = NodeOutput
    Image: type = field(default_factory=lambda: _kind("IMAGE"))
    String: type = field(default_factory=lambda: _kind("STRING"))
    Int: type = field(default_factory=lambda: _kind("INT"))
    Float: type = field(default_factory=lambda: _kind("FLOAT"))
    Combo: type = field(default_factory=lambda: _kind("COMBO"))

    @staticmethod
    def Custom(name: str) -> type:  # noqa: N802 - ComfyUI's name
        return _kind(name)


io = _IO()
