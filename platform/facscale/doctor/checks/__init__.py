"""Checks, one module per subject. All functions decorated with `register_check` are found by `runner.load_checks`."""
