"""Algorithm 1 and what it needs: binarization, layers and their products, nets, update rules, steps, the run."""
