"""A stand-in for ``comfy.model_management``: the stop button."""


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    pass


stopped = False


def throw_exception_if_processing_interrupted() -> None:
    if stopped:
        raise InterruptProcessingException
