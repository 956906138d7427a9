"""Evaluation: predictions over a split, metrics with intervals, figures."""
