"""Stages, plan, checkpoints and the engine: writes a run directory."""
