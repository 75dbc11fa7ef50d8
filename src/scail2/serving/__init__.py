"""Runs behind an HTTP address: a queue that survives, workers that keep their model, and pages that speak the same.

This room holds no model code and no second rule: whatever it does is done by `AnimationRequest` and `RunDirectory`.
"""
