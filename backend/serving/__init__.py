"""Two verbs, preannotate and interact, and what happens around them: history, webhooks, prefetch."""
