"""Video: which frame is meant, what follows an object through frames, and how tracks are kept and written."""
