"""Engines: what turns prompts and features into masks, one folder for each family."""
