"""What Maskloom keeps between requests, in SQLite or in a server's database."""
