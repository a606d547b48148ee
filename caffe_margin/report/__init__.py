"""Pictures and the page; computes nothing."""
