"""Algorithm 1 and what it needs: preprocessing, update rules, steps, checkpoints, the run."""
