"""The layer's arithmetic over plain arrays: no messages, no files, no layer classes."""
