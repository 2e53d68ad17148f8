"""Many images through the one path: sources of items, sinks for what was found, and a run that can be killed at any moment."""
