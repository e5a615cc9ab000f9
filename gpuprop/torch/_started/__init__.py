"""A folder for `sys.path`: processes that a program starts find `gpuprop.torch` as torch."""
