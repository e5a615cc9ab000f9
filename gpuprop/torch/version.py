"""The version, as `torch.version`: that of the PyTorch whose names and meanings are here."""

__all__ = ["cuda", "debug", "git_version", "hip", "rocm", "xpu"]

__version__ = "2.13.0"
cuda = hip = rocm = xpu = None
debug = False
git_version = "gpuprop"
