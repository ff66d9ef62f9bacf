"""How many prompt tokens a step may compute without making running streams wait for longer than the target ITL."""

from __future__ import annotations

SMOOTHING = 0.3  # weight of the newest measurement
MIN_CHUNK = 32  # tokens; below this a long prompt would pay mostly per-step overhead
LONGEST_STEP = 2.5  # seconds, also while nobody decodes: what is silent for long is taken for dead
FIRST_CHUNK = 512  # tokens, while nothing is measured and nobody decodes


class ChunkSize:
    """Learns the cost of decode steps and of prompt tokens from measured steps."""

    def __init__(self, target_itl: float, max_tokens: int) -> None:
        self._target = target_itl  # seconds; 0: no limit
        self._max_tokens = max_tokens
        self._decode_step = 0.0  # seconds of a step without chunks
        self._chunk_token = 0.0  # seconds per prompt token on top of that; 0: not known yet

    def limit(self, has_decodes: bool) -> int:
        """Most prompt tokens for the next step."""
        is_smooth = has_decodes and bool(self._target)
        if not self._chunk_token:
            return min(self._max_tokens, 4 * MIN_CHUNK if is_smooth else FIRST_CHUNK)
        seconds = self._target - self._decode_step if is_smooth else LONGEST_STEP
        tokens = int(seconds / self._chunk_token)
        return max(MIN_CHUNK, min(self._max_tokens, tokens))

    def observe(self, num_chunk_tokens: int, num_decodes: int, elapsed: float) -> None:
        """Learn from one step. `elapsed` in seconds."""
        if not num_chunk_tokens:
            self._decode_step += SMOOTHING * (elapsed - self._decode_step)
        elif num_chunk_tokens >= MIN_CHUNK:
            per_token = max(1e-9, (elapsed - (self._decode_step if num_decodes else 0.0)) / num_chunk_tokens)
            weight = SMOOTHING if self._chunk_token else 1.0
            self._chunk_token += weight * (per_token - self._chunk_token)
