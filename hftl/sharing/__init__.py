"""Sharing: what is made from a finished run directory, without torch and without a model."""
