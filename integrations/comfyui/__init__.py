"""ComfyUI finds custom nodes by this file when the folder is copied or linked into ``custom_nodes``."""

from .scail2_comfyui import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
