"""Encoders that come when they are needed and leave when they were used, instead of living in the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class EncoderSource(Protocol):
    """Where encoders come from. Each is there inside of its context only, on the device it works on."""

    def text(self) -> AbstractContextManager[tuple[Any, Any]]:
        """The tokenizer and the text encoder; two ``None`` where the model's files hold none."""

    def image(self) -> AbstractContextManager[tuple[Any, Any]]:
        """The image encoder and its processor; ``None`` where there is none."""


class VisitedByEncoders:
    """A pipeline whose text and image encoder are its own components, or come from its ``encoder_source``."""

    text_encoder: Any
    tokenizer: Any
    image_encoder: Any
    image_processor: Any
    encoder_source: EncoderSource | None = None

    @contextmanager
    def text_encoder_for_use(self, *, needed: bool) -> Iterator[tuple[Any, Any]]:
        """Tokenizer and text encoder; the source's only where they are ``needed`` and the pipeline has none."""
        if needed and self.text_encoder is None and self.encoder_source is not None:
            with self.encoder_source.text() as found:
                yield found
        else:
            yield self.tokenizer, self.text_encoder

    @contextmanager
    def image_encoder_for_use(self, *, needed: bool) -> Iterator[tuple[Any, Any]]:
        """Image encoder and processor, likewise."""
        if needed and self.image_encoder is None and self.encoder_source is not None:
            with self.encoder_source.image() as found:
                yield found
        else:
            yield self.image_encoder, self.image_processor


class OwnEncoders:
    """The encoders of a pipeline, as an `EncoderSource`."""

    def __init__(self, pipe: VisitedByEncoders) -> None:
        self._pipe = pipe

    def text(self) -> AbstractContextManager[tuple[Any, Any]]:
        """Tokenizer and text encoder."""
        return self._pipe.text_encoder_for_use(needed=True)

    def image(self) -> AbstractContextManager[tuple[Any, Any]]:
        """Image encoder and its processor."""
        return self._pipe.image_encoder_for_use(needed=True)
