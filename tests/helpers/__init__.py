"""What tests share; on their path as ``helpers``."""
