"""Caffe's files and arrays' files: bytes to messages and arrays, and back."""
