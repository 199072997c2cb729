"""Many runs: which there are, carrying them out on one machine or many, and estimating what they cost."""
