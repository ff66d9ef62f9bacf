"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from penstock.engine.input import token_id_array
from penstock.errors import InvalidRequest
from penstock.server.openai.chat import render, text_size
from penstock.server.openai.parsing import parse
from penstock.server.openai.protocol import DetokenizeRequest, TokenizeRequest
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

MAX_TOKENS = 1 << 17  # counted for one request, also where the context is shorter


async def tokenize(serving: Serving, exchange: PodExchange) -> None:
    """Token ids of a prompt, or of a conversation as the chat template writes it."""
    request = parse(TokenizeRequest, await exchange.read_body(serving.config.max_body_bytes))
    serving.check_model(request.model)
    tokenizer, max_model_len = serving.llm.tokenizer, serving.llm.input.max_model_len
    prompt, messages = request.prompt, request.messages
    if (prompt is None) == (messages is None):
        raise InvalidRequest("either prompt or messages is needed", "prompt")

    def work() -> list[int]:
        text = prompt if messages is None else render(tokenizer, request, messages)
        adds_special = request.add_special_tokens
        return tokenizer.encode(
            text or "",
            add_special_tokens=messages is None if adds_special is None else adds_special,
            max_tokens=max(max_model_len, MAX_TOKENS),
            field="prompt" if messages is None else "messages",
        )

    token_ids = await serving.run(work, size=len(prompt or "") + text_size(messages or ()))
    names = [tokenizer.token_text(token_id) for token_id in token_ids] if request.return_token_strs else None
    await exchange.respond_json(
        {"count": len(token_ids), "max_model_len": max_model_len, "tokens": token_ids, "token_strs": names}
    )


async def detokenize(serving: Serving, exchange: PodExchange) -> None:
    """The text of token ids, special tokens included."""
    request = parse(DetokenizeRequest, await exchange.read_body(serving.config.max_body_bytes))
    serving.check_model(request.model)
    tokens, llm = request.tokens, serving.llm

    def work() -> str:
        if tokens:
            token_id_array(tokens, llm.spec.vocab_size, "tokens")
        return llm.tokenizer.decode(tokens, skip_special_tokens=False)

    await exchange.respond_json({"prompt": await serving.run(work, size=len(tokens))})
