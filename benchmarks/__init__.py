"""How fast gpuprop is beside its peers: ``python -m benchmarks`` (see `frame`)."""
