"""Training by several processes: weights sharded over all, sequences split over some. The trainer knows nothing of it."""
