"""The values that rooms hand to each other: masks, features, sessions, settings, errors."""
