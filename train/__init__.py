"""How the embedded checkpoint is made; neither package imports it."""
