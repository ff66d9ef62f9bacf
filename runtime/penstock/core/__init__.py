"""The engine's decisions, as plain numpy: request table, scheduler, KV block accounting. No torch in here."""
