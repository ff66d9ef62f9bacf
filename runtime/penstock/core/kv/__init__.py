"""Accounting of KV cache blocks: who holds which, what is cached, what may be reused."""
