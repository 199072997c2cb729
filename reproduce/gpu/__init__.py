"""Evidence from a rented GPU: trials of a training step's parts, and the steps of gpu-evidence.sh."""
