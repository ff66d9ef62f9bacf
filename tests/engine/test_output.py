from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.plan import TokenLogprobs
from penstock.core.request import FinishReason
from penstock.engine.input import InputProcessor
from penstock.engine.messages import AddRequest, PromptLogprobsOf, StepOutputs
from penstock.engine.output import OutputProcessor, TokenLogprob
from penstock.sampling.params import SamplingParams
from support.embedded_text import embedded_spec, embedded_tokenizer

EOS = 2
GO_ON, STOP, LENGTH = FinishReason.NONE, FinishReason.STOP, FinishReason.LENGTH
TEXT = "One, two, three 🌊, four.\n\nUser: five"


def encode(text):
    return embedded_tokenizer().encode(text)


def build(prompt=(5, 6, 7), **params):
    edge = InputProcessor(embedded_spec(), embedded_tokenizer(), max_model_len=4096, block_size=16)
    return edge.build(list(prompt), SamplingParams(**{"max_tokens": 1000, "seed": 0, **params}), request_id="r")


def outputs(*news, **fields):
    """A step's message; each of `news` is (handle, token id, finish reason)."""
    columns = list(zip(*news, strict=True)) or [(), (), ()]
    return StepOutputs(
        epoch=1,
        handles=np.array(columns[0], dtype=np.int64),
        token_ids=np.array(columns[1], dtype=np.int32),
        finish=np.array(columns[2], dtype=np.uint8),
        **fields,
    )


class Follower:
    """An output processor with one request, and what its client saw."""

    def __init__(self, request=None, output_ids=b"", **params):
        self.request = request or build(**params)[0]
        self.processor = OutputProcessor(embedded_tokenizer())
        self.deltas = []
        self.aborted = []
        self.processor.add(self.request, self.deltas.append, output_ids)

    def feed(self, token_ids, last=GO_ON, **fields):
        for position, token_id in enumerate(token_ids):
            reason = last if position == len(token_ids) - 1 else GO_ON
            self.aborted += self.processor.process(outputs((self.request.handle, token_id, reason), **fields))
        return self

    @property
    def text(self):
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self):
        return [token_id for delta in self.deltas for token_id in delta.token_ids]


@given(ids=st.lists(st.integers(0, 49151), min_size=1, max_size=30))
@settings(deadline=None, max_examples=100)
def test_streamed_text_is_the_text_of_all_tokens(ids):
    seen = Follower().feed(ids, LENGTH)
    assert seen.text == embedded_tokenizer().decode(ids)
    assert seen.token_ids == ids
    assert [delta.num_outputs for delta in seen.deltas] == list(range(1, len(ids) + 1))
    assert [delta.finish_reason for delta in seen.deltas] == [None] * (len(ids) - 1) + ["length"]
    assert len(seen.processor) == 0


def test_the_end_token_ends_a_choice_without_a_text_or_reason_of_its_own():
    seen = Follower(skip_special_tokens=False).feed([*encode("Yes"), EOS], STOP)
    assert seen.text == "Yes"
    assert seen.token_ids[-1] == EOS
    assert (seen.deltas[-1].finish_reason, seen.deltas[-1].stop_reason) == ("stop", None)
    assert seen.aborted == []


def test_a_stop_token_is_named_and_not_part_of_the_text_unless_asked_for():
    ids = encode(" yes no")
    hidden = Follower(stop_token_ids=(ids[-1],)).feed(ids, STOP)
    shown = Follower(stop_token_ids=(ids[-1],), include_stop_str_in_output=True).feed(ids, STOP)
    assert (hidden.text, shown.text) == (" yes", " yes no")
    assert hidden.deltas[-1].stop_reason == ids[-1]
    assert hidden.deltas[-1].num_outputs == len(ids)


@pytest.mark.parametrize("start", range(len(TEXT) - 4))
def test_a_stop_string_anywhere_ends_the_choice_and_never_leaks(start):
    stop = TEXT[start : start + 4]
    seen, shown = Follower(stop=(stop,)), Follower(stop=(stop,), include_stop_str_in_output=True)
    for follower in (seen, shown):
        follower.feed(encode(TEXT))  # tokens that come too late are ignored
        assert follower.aborted == [follower.request.handle]
        assert len(follower.processor) == 0
    before = TEXT[: TEXT.index(stop)]
    assert seen.text == before
    assert shown.text == before + stop
    assert (seen.deltas[-1].finish_reason, seen.deltas[-1].stop_reason) == ("stop", stop)
    used = embedded_tokenizer().decode(seen.token_ids)
    assert stop in used
    assert stop not in embedded_tokenizer().decode(seen.token_ids[:-1])
    assert seen.deltas[-1].num_outputs == len(seen.token_ids)


def test_text_held_back_for_a_stop_string_comes_at_the_end():
    ids = encode("almost\n\nUs")
    seen = Follower(stop=("\n\nUser:",)).feed(ids[:-1])
    assert seen.text == "almost"
    seen.feed(ids[-1:], LENGTH)
    assert seen.text == "almost\n\nUs"


def test_a_stop_string_in_the_last_token_wins_over_length_and_needs_no_abort():
    ids = encode("one two")
    seen = Follower(stop=("two",)).feed(ids, LENGTH)
    assert (seen.text, seen.deltas[-1].finish_reason, seen.aborted) == ("one ", "stop", [])


def test_stop_strings_wait_for_min_tokens():
    ids = encode("a b a b a b")
    assert len(ids) == 6
    assert Follower(stop=(" b",)).feed(ids).text == "a"
    assert Follower(stop=(" b",), min_tokens=4).feed(ids).text == "a b a"
    assert Follower(stop=(" b",), min_tokens=5).feed(ids).text == "a b a b a"


def test_logprobs_come_with_their_tokens_as_wide_as_asked_for():
    requests = [build(logprobs=width)[0] for width in (None, 0, 1, 2)]
    requests = [msgspec.structs.replace(r, handle=handle) for handle, r in enumerate(requests, start=1)]
    processor, deltas = OutputProcessor(embedded_tokenizer()), {}
    for request in requests:
        processor.add(request, lambda delta: deltas.__setitem__(delta.handle, delta))
    columns = TokenLogprobs(
        index=np.array([1, 2, 3], dtype=np.int32),
        sampled=np.array([-1.0, -2.0, -3.0], dtype=np.float32),
        rank=np.array([1, 2, 3], dtype=np.int32),
        top_ids=np.array([[9, 8]] * 3, dtype=np.int32),
        top=np.array([[-0.5, -0.75]] * 3, dtype=np.float32),
    )
    processor.process(outputs(*((handle, 10 + handle, GO_ON) for handle in range(1, 5)), logprobs=columns))
    assert deltas[1].logprobs == ()
    assert deltas[2].logprobs == (TokenLogprob(token_id=12, logprob=-1.0, rank=1, top=()),)
    assert deltas[3].logprobs == (TokenLogprob(token_id=13, logprob=-2.0, rank=2, top=((9, -0.5),)),)
    assert deltas[4].logprobs[0].top == ((9, -0.5), (8, -0.75))


def prompt_logprobs(handle, start, count):
    return PromptLogprobsOf(
        handle=handle,
        start=start,
        token=np.arange(-start, -start - count, -1, dtype=np.float32),
        rank=np.ones(count, dtype=np.int32),
        top_ids=np.full((count, 3), 4, dtype=np.int32),
        top=np.zeros((count, 3), dtype=np.float32),
    )


def test_prompt_logprobs_come_once_and_whole_however_they_were_chunked():
    seen = Follower(prompt=range(10, 18), prompt_logprobs=1)
    handle = seen.request.handle
    for start, count in ((1, 2), (3, 3), (1, 2), (3, 3)):  # preempted after two chunks, and begun again
        seen.processor.process(outputs(prompt_logprobs=(prompt_logprobs(handle, start, count),)))
    assert seen.deltas == []
    seen.feed([20], prompt_logprobs=(prompt_logprobs(handle, 6, 2),))
    first = seen.deltas[0].prompt_logprobs
    assert first[0] is None
    assert [(entry.token_id, entry.logprob) for entry in first[1:]] == [(10 + i, float(-i)) for i in range(1, 8)]
    assert first[1].top == ((4, 0.0),)
    seen.feed([21], prompt_logprobs=(prompt_logprobs(handle, 1, 7),))
    assert seen.deltas[1].prompt_logprobs is None


def test_cached_tokens_are_those_of_the_first_start():
    seen = Follower()
    handle = seen.request.handle
    seen.feed([9], started=((handle, 2),)).feed([9], started=((handle, 3),))
    assert [delta.num_cached for delta in seen.deltas] == [2, 2]
    assert seen.deltas[0].num_prompt == 3


def test_a_failed_request_ends_with_its_sentence_beside_others_that_go_on():
    seen = Follower()
    other = []
    good = msgspec.structs.replace(seen.request, handle=seen.request.handle + 1)
    seen.processor.add(good, other.append)
    bad = seen.request.handle
    news = ((bad, 0, FinishReason.ERROR), (good.handle, 9, GO_ON))
    seen.processor.process(outputs(*news, failed=((bad, "bad numbers"),)))
    assert [(d.finish_reason, d.error, d.token_ids) for d in seen.deltas] == [("error", "bad numbers", ())]
    assert [d.token_ids for d in other] == [(9,)]
    seen.processor.fail(bad, "again")
    assert len(seen.deltas) == 1


def test_dropped_and_unknown_handles_are_ignored():
    seen = Follower()
    seen.processor.drop(seen.request.handle)
    seen.processor.drop(seen.request.handle)
    seen.feed([9], STOP, failed=((seen.request.handle, "late"),), started=((seen.request.handle, 1),))
    assert (seen.deltas, seen.aborted, len(seen.processor)) == ([], [], 0)


IDS = encode(TEXT)


@pytest.mark.parametrize("died", range(len(IDS)))
def test_a_stream_told_again_goes_on_where_it_was(died):
    """The engine dies after `died` tokens; what comes before and after is the text of an undisturbed stream."""
    options = {"stop": ("\n\nUser",), "min_tokens": 3}
    undisturbed = Follower(**options).feed(IDS)
    before = Follower(**options).feed(IDS[:died])
    (told,) = before.processor.in_flight() or [None]
    if told is None:
        assert before.text == undisturbed.text
        return
    assert told == AddRequest(request=before.request, output_ids=np.array(IDS[:died], dtype="<i4").tobytes())
    # The same front-end hears the rest from a new engine; another front-end resumes from what it was told.
    resumed = Follower(request=told.request, output_ids=told.output_ids)
    num_before = len(before.deltas)
    for follower in (before, resumed):
        follower.feed(IDS[died:])
    assert [delta.text for delta in before.deltas] == [delta.text for delta in undisturbed.deltas]
    assert resumed.deltas == [
        dataclasses.replace(delta, handle=resumed.request.handle) for delta in undisturbed.deltas[num_before:]
    ]
