"""The command ``gpuprop bench``: whole training steps, timed on this machine.

`workloads` has the models and their data, written in words that `gpuprop.nn` and `torch.nn` share.
The folder benchmarks/ of the repository runs the same workloads with other libraries too.
"""
