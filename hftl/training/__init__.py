"""Stages, plan, checkpoints and the engine: writes a run directory.

Here the libraries are loaded that nearly all of it imports. They bring a million objects that stay, among which Python's collector
(`gc`) would look for cycles again and again, for a fifth of the time: they are loaded without it, and are old objects to it at
once.
"""

import gc

from hftl.system import FROZEN_BY_PYTHON

_collects = gc.isenabled()
gc.disable()
try:
    import datasets  # noqa: F401
    import torch  # noqa: F401
    from transformers import PreTrainedModel  # noqa: F401
finally:
    if _collects:
        gc.enable()
if gc.get_freeze_count() < FROZEN_BY_PYTHON:
    gc.freeze()
    gc.unfreeze()
