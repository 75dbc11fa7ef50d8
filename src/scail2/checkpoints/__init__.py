"""File formats of weights: every public dialect, streamed tensor by tensor; knows names and shapes, builds no model."""
