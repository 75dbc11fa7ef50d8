"""Measurements of this package on one machine: ``python -m benchmarks`` runs them, `benchmarks.gpu` those that need a card."""
