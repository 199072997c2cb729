"""Binarized Neural Networks (arXiv 1602.02830), reproduced: experiments, training, records, verdicts."""
