"""What can come of a question other than an answer: each kind its own type, for whoever decides what to do then."""

from scail2.errors import InputError


class EndpointError(InputError):
    """An endpoint did not do what was asked of it."""


class EndpointUnreachableError(EndpointError):
    """Nobody answers, or the server is busy or failing after all retries: the same question may be answered later."""


class EndpointRefusedError(EndpointError):
    """The server will not take such requests: a wrong key, model or address."""


class BudgetSpentError(EndpointError):
    """A ceiling that the user set is reached."""


class NoAnswerError(EndpointError):
    """The endpoint works, and this question got no answer that can be used."""


class AnswerRefusedError(NoAnswerError):
    """The model declined, or a filter took the answer away."""


class AnswerCutError(NoAnswerError):
    """The answer was longer than allowed, also at the highest ceiling."""


class AnswerUnusableError(NoAnswerError):
    """What came back is not the answer that was asked for, after all attempts."""
