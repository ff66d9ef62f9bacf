from __future__ import annotations

import json
import time
from datetime import datetime
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, trainers

from penstock import chat_template
from penstock.chat_template import MAX_MESSAGES, ChatTemplate
from penstock.errors import InvalidRequest, ModelError
from penstock.tokenizer import Tokenizer
from support.embedded import embedded_folder
from support.embedded_text import KNOWN_CHARACTERS, embedded_tokenizer

HELLO = [{"role": "user", "content": "Hello"}]


@cache
def library_tokenizer():
    return tokenizers.Tokenizer.from_file(str(embedded_folder() / "tokenizer.json"))


@pytest.fixture(scope="module")
def sentencepiece():
    """A small tokenizer in Llama 2's form: spaces as `▁`, unknown characters as bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False)
    tokenizer.train_from_iterator(["the water flows from the hills to the sea"] * 3, trainer)
    content = json.loads(tokenizer.to_str())
    start = max(content["model"]["vocab"].values()) + 1
    content["model"]["vocab"] |= {token: start + i for i, token in enumerate(special[3:])}
    return json.dumps(content)


def refused(function, field):
    """The message of the `InvalidRequest` that names `field`."""
    with pytest.raises(InvalidRequest) as caught:
        function()
    assert caught.value.field == field
    return str(caught.value)


@given(ids=st.lists(st.integers(0, 49151), max_size=30), skip=st.booleans())
@settings(deadline=None, max_examples=300)
def test_decodes_as_the_tokenizers_library_does(ids, skip):
    ours = embedded_tokenizer().decode(ids, skip_special_tokens=skip)
    assert ours == library_tokenizer().decode(ids, skip_special_tokens=skip)


@given(text=st.text(KNOWN_CHARACTERS, max_size=50))
@settings(deadline=None, max_examples=300)
def test_text_survives_a_round_trip(text):
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("text", ["the water flows", " two  spaces ", "Grüße 🌊", "the", "a\nb"])
def test_sentencepiece_tokenizers_decode_as_the_tokenizers_library_does(sentencepiece, text):
    ours, theirs = Tokenizer(sentencepiece, {}, None), tokenizers.Tokenizer.from_str(sentencepiece)
    ids = ours.encode(text)
    assert ours.decode(ids) == theirs.decode(ids) == text


def test_added_tokens_outside_the_byte_alphabet_are_plain_text():
    library = tokenizers.Tokenizer(models.BPE(vocab={"Ġ": 0, "Ã": 1, "©": 2}, merges=[]))
    library.decoder = decoders.ByteLevel()
    library.add_tokens(["a b\u00a0c", "世界", "<x>"])
    ours = Tokenizer(library.to_str(), {}, None)
    ids = list(range(library.get_vocab_size()))
    assert ours.decode(ids) == library.decode(ids) == " éa b\u00a0c世界<x>"


def test_other_decoders_are_refused_by_name(sentencepiece):
    content = json.loads(sentencepiece)
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(ModelError, match="WordPiece"):
        Tokenizer(json.dumps(content), {}, None)


def test_a_beginning_of_text_token_is_added_once_where_the_configuration_asks_for_it(sentencepiece):
    config = {"add_bos_token": True, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    tokenizer = Tokenizer(sentencepiece, config, None)
    assert tokenizer.encode("the")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.encode("the", add_special_tokens=False)[0] != 1
    assert tokenizer.eos_token_ids == (2,)


def test_broken_files_are_model_errors(tmp_path):
    with pytest.raises(ModelError, match="tokenizer"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match="tokenizer_config"):
        Tokenizer.from_folder(tmp_path)


def seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


@pytest.mark.parametrize("text", ["word " * 300_000, "word " * 130_000, "a" * 16_000_000])
def test_a_prompt_that_is_too_long_is_refused_before_all_of_it_is_tokenised(text):
    tokenizer = embedded_tokenizer()
    whole = seconds(lambda: tokenizer.encode(text[:650_000]))
    took = min(seconds(lambda: refused(lambda: tokenizer.encode(text, max_tokens=8191), "prompt")) for _ in range(3))
    assert took < whole / 3


def test_the_refusal_of_a_long_prompt_names_the_context():
    for text in ("word " * 300_000, "x y " * 6_000):
        assert "context" in refused(lambda text=text: embedded_tokenizer().encode(text, max_tokens=8191), "prompt")


def test_a_prompt_of_exactly_the_limit_passes():
    text = " word" * 60_000  # long enough to be counted in parts first
    assert len(embedded_tokenizer().encode(text, max_tokens=60_000)) == 60_000
    refused(lambda: embedded_tokenizer().encode(text, max_tokens=59_999), "prompt")


def test_lone_surrogates_are_no_text():
    assert "surrogate" in refused(lambda: embedded_tokenizer().encode("a\ud800b"), "prompt")


def test_the_chat_template_of_the_embedded_model_is_rendered():
    text = embedded_tokenizer().render_chat(HELLO)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert embedded_tokenizer().render_chat(HELLO, add_generation_prompt=False).endswith("Hello<|im_end|>\n")


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    tokenizer = embedded_tokenizer()
    assert tokenizer.render_chat([{"role": "user", "content": parts}]) == tokenizer.render_chat(HELLO)


@pytest.mark.parametrize("content", ["Hello", " Hello there ", [{"type": "text", "text": "Hello"}]])
def test_the_final_message_can_be_continued(content):
    messages = [*HELLO, {"role": "assistant", "content": content}]
    text = embedded_tokenizer().render_chat(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.rstrip().endswith("Hello there" if "there" in str(content) else "Hello")
    assert text.count("<|im_end|>") == 2


@pytest.mark.parametrize(
    "messages",
    [
        [],
        HELLO * (MAX_MESSAGES + 1),
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": ["Hello"]}],
        [{"content": "no role"}],
    ],
)
def test_conversations_that_the_model_does_not_know_are_refused(messages):
    refused(lambda: embedded_tokenizer().render_chat(messages), "messages")


def render(source, **variables):
    template = ChatTemplate(source, {"bos_token": "<s>"}, clock=lambda: datetime(2026, 7, 4))
    return template.render(HELLO, add_generation_prompt=True, tools=variables.pop("tools", None), variables=variables)


def test_templates_see_what_hugging_face_gives_them():
    assert render("{{ bos_token }}{{ messages[0].content }}") == "<s>Hello"
    assert render("{{ strftime_now('%d %B %Y') }}") == "04 July 2026"
    assert render("{{ tools | tojson }}", tools=[{"name": "<é>"}]) == '[{"name": "<é>"}]'
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("  {% if think %}\nyes\n  {% endif %}\n", think=True) == "yes\n"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[7].content.x }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    ],
)
def test_templates_are_held_within_bounds(source, monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.3)
    began = time.perf_counter()
    refused(lambda: render(source), "messages")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("source", ["{% if %}", "x" * 300_000, "{{" * 50_000])
def test_templates_that_are_none_are_refused(source):
    refused(lambda: render(source), "chat_template")
