"""Garbage of a command's start is collected once: imports make some 400 000 objects, and all of them stay."""

import gc

# Containers made before the first collection: after the imports of a rendering, before the first denoised segment.
_START = 500_000


def collect_after_start() -> None:
    """Puts the first collection off; from that on objects are collected as ever.

    Python would look through what the imports have made 600 times meanwhile, for a fifth of their CPU time.
    """
    usual = gc.get_threshold()
    if not gc.isenabled() or usual[0] >= _START:
        return

    def resume(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            gc.set_threshold(*usual)
            gc.callbacks.remove(resume)

    gc.callbacks.append(resume)
    gc.set_threshold(_START, *usual[1:])
