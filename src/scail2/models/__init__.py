"""The network alone, and what small models need beside it."""

from scail2.models.light_imports import defer

defer()
