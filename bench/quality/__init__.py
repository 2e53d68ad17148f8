"""How good the masks are on photos that were never trained on, beside methods that know nothing."""
