"""Looking into a model: where an error comes from, which shapes it has, where a NaN is born."""
