"""How many pods each role should have: what pods say, what follows from it, and who is told."""
