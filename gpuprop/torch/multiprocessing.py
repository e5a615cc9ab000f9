"""Processes, as `torch.multiprocessing`: Python's own.

Tensors are pickled, so a process has copies; threads share Tensors.
"""

from multiprocessing import *  # noqa: F403
from multiprocessing import __all__  # noqa: F401
