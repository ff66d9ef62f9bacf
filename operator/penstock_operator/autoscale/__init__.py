"""How many pods a role gets."""
