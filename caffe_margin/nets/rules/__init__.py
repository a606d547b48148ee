"""The rules of `shape_rules`, by family."""
