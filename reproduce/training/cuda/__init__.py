"""Training steps on a GPU without autograd. `training.step` records them as CUDA graphs."""
