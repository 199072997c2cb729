"""Evidence from a rented GPU: trials, preflight, curves; gpu-evidence.sh calls them (python -m reproduce.gpu)."""
