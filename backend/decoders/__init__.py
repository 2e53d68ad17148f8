"""Mask decoders: one file or folder for each family."""
