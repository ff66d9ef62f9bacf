from __future__ import annotations

import os
import signal
import threading

import pytest

from penstock import LLM, SamplingParams
from penstock.errors import ConfigError, InvalidRequest, ModelError, OutOfMemory, PenstockError

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
PROMPTS = ["Water flows", "Once upon a time", "The capital of France is", "One, two, three,"]
LONG = "The river carries water from the mountains to the sea, past farms, mills and towns. " * 4


@pytest.fixture(scope="module")
def llm():
    with LLM(max_model_len=512, kv_cache_memory=64 << 20, deterministic=True, max_num_seqs=16, threads=1) as loaded:
        yield loaded


def texts(outputs):
    return [choice.text for output in outputs for choice in output.outputs]


def test_answers_a_question_through_the_chat_template(llm):
    question = [{"role": "user", "content": "What is the capital of France? Answer in English."}]
    (output,) = llm.chat(question, SamplingParams(temperature=0.0, max_tokens=24))
    assert "Paris" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"
    assert output.prompt.endswith("<|im_start|>assistant\n")
    two = llm.chat([question, question[:1]], SamplingParams(temperature=0.0, max_tokens=24))
    assert texts(two) == texts([output]) * 2


def test_a_batch_gives_each_prompt_the_text_that_it_has_alone(llm):
    alone = [llm.generate(prompt, GREEDY, use_tqdm=False)[0] for prompt in PROMPTS]
    together = llm.generate(PROMPTS * 6, GREEDY)
    assert texts(together) == texts(alone) * 6
    assert [output.prompt for output in together] == PROMPTS * 6
    assert all(output.finished and len(output.outputs[0].token_ids) == 12 for output in together)


def test_token_ids_continue_as_their_text_does(llm):
    ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    outputs = llm.generate(ids, GREEDY)
    assert texts(outputs) == texts(llm.generate(PROMPTS, GREEDY))
    assert [output.prompt_token_ids for output in outputs] == ids
    assert outputs[0].prompt is None
    assert texts(llm.generate(ids[0], GREEDY)) == texts(outputs[:1])


def test_a_stop_string_cuts_the_text_before_it(llm):
    (full,) = texts(llm.generate(PROMPTS[3], GREEDY))
    stop = full[5:9]
    (output,) = llm.generate(PROMPTS[3], SamplingParams(temperature=0.0, max_tokens=12, stop=(stop,)))
    choice = output.outputs[0]
    assert choice.text == full[: full.index(stop)]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    assert stop in llm.tokenizer.decode(choice.token_ids)


def test_a_seed_names_the_text_of_every_choice_whatever_runs_beside_it(llm):
    params = SamplingParams(n=3, seed=5, max_tokens=8)
    (alone,) = llm.generate(PROMPTS[1], params)
    beside = llm.generate([PROMPTS[1], *PROMPTS], [params, *[SamplingParams(max_tokens=8)] * 4])[0]
    assert texts([beside]) == texts([alone])
    assert len(set(texts([alone]))) == 3
    assert [choice.index for choice in alone.outputs] == [0, 1, 2]
    assert texts(llm.generate(PROMPTS[1], SamplingParams(n=3, seed=6, max_tokens=8))) != texts([alone])


def test_logprobs_belong_to_the_tokens(llm):
    (output,) = llm.generate(PROMPTS[2], SamplingParams(temperature=0.0, max_tokens=6, logprobs=2))
    choice = output.outputs[0]
    assert len(choice.logprobs) == len(choice.token_ids) == 6
    for token_id, named in zip(choice.token_ids, choice.logprobs, strict=True):
        assert named[token_id].rank == 1
        assert named[token_id].logprob == max(entry.logprob for entry in named.values())
        assert named[token_id].decoded_token == llm.tokenizer.token_text(token_id)
    total = sum(named[token_id].logprob for token_id, named in zip(choice.token_ids, choice.logprobs, strict=True))
    assert choice.cumulative_logprob == pytest.approx(total)


def test_a_prompt_is_found_in_the_prefix_cache_except_for_prompt_logprobs(llm):
    llm.generate(LONG, GREEDY)
    (again,) = llm.generate(LONG, GREEDY)
    assert 0 < again.num_cached_tokens < len(again.prompt_token_ids)
    (judged,) = llm.generate(LONG, SamplingParams(temperature=0.0, max_tokens=12, prompt_logprobs=1))
    assert judged.num_cached_tokens == 0
    assert judged.prompt_logprobs[0] is None
    ids = judged.prompt_token_ids
    assert len(judged.prompt_logprobs) == len(ids)
    assert all(ids[i] in judged.prompt_logprobs[i] for i in range(1, len(ids)))
    assert texts([judged]) == texts([again])


def test_one_bad_prompt_stops_a_batch_before_anything_runs(llm):
    for bad in ("", "word " * 300_000, "a\ud800", [1, 10**9]):
        with pytest.raises(InvalidRequest) as caught:
            llm.generate([*PROMPTS, bad], GREEDY)
        assert caught.value.field == "prompt"
    with pytest.raises(InvalidRequest, match="temperature"):
        llm.generate(PROMPTS, SamplingParams(temperature=-1))
    with pytest.raises(InvalidRequest, match="3 entries for 4 prompts"):
        llm.generate(PROMPTS, [GREEDY] * 3)
    with pytest.raises(InvalidRequest, match="empty"):
        llm.generate([], GREEDY)
    with pytest.raises(InvalidRequest, match="messages"):
        llm.chat([], GREEDY)


def test_an_interrupt_comes_between_steps_and_leaves_a_working_engine(llm):
    before = texts(llm.generate(PROMPTS, GREEDY))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, SamplingParams(max_tokens=500, ignore_eos=True))
    timer.join()
    assert texts(llm.generate(PROMPTS, GREEDY)) == before


def test_another_thread_may_use_it(llm):
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(llm.generate(PROMPTS[0], GREEDY)))
    thread.start()
    thread.join()
    assert texts(seen) == texts(llm.generate(PROMPTS[0], GREEDY))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"dtype": "float8"}, "dtype"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_seqs": "many"}, "max_num_seqs"),
        ({"max_num_seqs": True}, "max_num_seqs"),
        ({"max_num_seqs": None}, "max_num_seqs"),
        ({"kv_cache_memory": "a lot"}, "kv_cache_memory"),
        ({"max_model_len": 1 << 20}, "max_model_len"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, field):
    with pytest.raises(ConfigError) as caught:
        LLM(**settings)
    assert caught.value.field == field


def test_a_model_that_is_not_there_and_memory_that_is_not_enough_are_one_clear_error(tmp_path):
    with pytest.raises(ModelError, match="nothing-here"):
        LLM(str(tmp_path / "nothing-here"))
    with pytest.raises(OutOfMemory):
        LLM(max_model_len=8192, kv_cache_memory=1 << 20)


def test_a_closed_engine_says_so():
    closed = LLM(max_model_len=64, kv_cache_memory="8MiB", target_itl_ms=50, threads=1)
    closed.close()
    closed.close()
    with pytest.raises(PenstockError, match="closed"):
        closed.generate("a", GREEDY)
