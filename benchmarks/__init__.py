"""Speed of gpuprop compared with other libraries: ``python -m benchmarks`` (see `frame`)."""
