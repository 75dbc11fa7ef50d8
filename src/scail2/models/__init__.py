"""The network alone, and what small models need beside it."""
