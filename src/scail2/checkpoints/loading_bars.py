"""The bars that diffusers and transformers draw while they read weights, for programs that show progress of their own."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """In the block diffusers and transformers draw no bars over weights; downloads keep theirs. Afterwards all is as it was."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as of_transformers

    drawing = [each for each in (of_diffusers, of_transformers) if each.is_progress_bar_enabled()]
    downloads = not are_progress_bars_disabled()
    for each in drawing:
        each.disable_progress_bar()
    if downloads:  # transformers switches those off, too
        enable_progress_bars()
    try:
        yield
    finally:
        for each in drawing:
            each.enable_progress_bar()
