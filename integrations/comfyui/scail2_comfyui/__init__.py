"""SCAIL-2 in ComfyUI (V3 nodes)."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES


class Scail2Extension(ComfyExtension):
    """All nodes of this package."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """What ComfyUI registers."""
        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI."""
    return Scail2Extension()
