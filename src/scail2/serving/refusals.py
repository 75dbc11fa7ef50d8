"""Refusals with a meaning for HTTP; each is one sentence for people."""

from scail2.errors import InputError


class RefusalError(InputError):
    """The base; ``status`` is the HTTP status it becomes."""

    status = 422


class MissingError(RefusalError):
    """There is no such thing, or it is another's."""

    status = 404


class BusyError(RefusalError):
    """Not while a job of the run is unfinished."""

    status = 409


class TooManyError(RefusalError):
    """A quota is used up."""

    status = 429


class TooLargeError(RefusalError):
    """More bytes, pixels or seconds than allowed."""

    status = 413


class TooSlowError(RefusalError):
    """The client sent nothing for too long."""

    status = 408


class WrongTypeError(RefusalError):
    """Bytes that are no picture, video or sound that can be read."""

    status = 415


class DiskFullError(RefusalError):
    """The disk has no room."""

    status = 507


class UnauthorizedError(RefusalError):
    """No token, or a wrong one."""

    status = 401


class ForbiddenError(RefusalError):
    """Sent by a page of another origin, or under another host's name."""

    status = 403
