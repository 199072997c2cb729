"""Training steps on a GPU without autograd."""
