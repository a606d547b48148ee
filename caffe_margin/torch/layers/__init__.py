"""The layers of a net on PyTorch, a module a type; `table` has them all."""
