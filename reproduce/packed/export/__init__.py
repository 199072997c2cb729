"""Trained nets in formats of other tools."""
