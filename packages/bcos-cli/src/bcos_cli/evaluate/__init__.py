"""Scores of networks and of their explanations."""
