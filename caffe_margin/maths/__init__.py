"""The mathematics over plain arrays: psi, the gradient rules, lambda. Imports nothing of ours."""
