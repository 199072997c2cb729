"""Trained nets in formats of other tools, and the command that writes them."""
