"""How timesteps are counted."""

# Timesteps are 0..1000 outside the network (diffusers' flow convention), 0..1 in the flow's formulas.
NUM_TRAIN_TIMESTEPS = 1000
