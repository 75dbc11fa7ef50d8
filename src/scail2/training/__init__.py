"""Training: recipes, one trainer, and objectives that are passed to it."""
