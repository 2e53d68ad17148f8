"""Label Studio's words outside, Maskloom's values inside; nothing else knows Label Studio's JSON."""
