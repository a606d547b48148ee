"""Paper against exact, measured: a question a module, and no pictures."""
