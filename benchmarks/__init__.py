"""Speed of gpuprop beside other libraries: ``python -m benchmarks`` (docs/performance.md)."""
