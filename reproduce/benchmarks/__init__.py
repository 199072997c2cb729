"""Benchmarks of whole nets and of training, each against its peers in one run; one record a run."""
