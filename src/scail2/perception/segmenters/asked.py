"""The segmenter that a request asks for."""

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.perception.segmenters.automatic import AutomaticSegmenter
from scail2.perception.segmenters.protocol import VideoSegmenter
from scail2.request.masks import MaskRequest


def segmenter_for(request: MaskRequest) -> VideoSegmenter:
    """SAM3 where its weights were named, else the one that knows what the clip shows."""
    if request.sam3 is None:
        return AutomaticSegmenter(accept=request.accept_mask)
    from scail2.perception.segmenters.sam3 import Sam3Segmenter

    with no_loading_bars():
        return Sam3Segmenter.load(request.sam3)
