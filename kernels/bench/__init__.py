"""Benchmarks of the kernels: products on a CPU and on a GPU, the clocks and bounds they are judged by."""
