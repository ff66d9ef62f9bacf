"""Which graph a step runs as, and when graphs are captured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.worker.gpu.graphs import BatchDescriptor, Dispatch, GraphSizes, Mode, dispatch
from support.runs import GREEDY
from support.toy_runner import GRAPHS, Toy, toy_prompt

SIZES = st.lists(st.integers(1, 64), unique=True).map(lambda sizes: tuple(sorted(sizes)))


@st.composite
def descriptors(draw: st.DrawFn) -> BatchDescriptor:
    num_requests = draw(st.integers(1, 40))
    num_tokens = draw(st.integers(num_requests, 100))
    is_decode = num_tokens == num_requests and draw(st.booleans())
    return BatchDescriptor(num_tokens=num_tokens, num_requests=num_requests, is_decode=is_decode)


@given(descriptors(), SIZES, SIZES)
def test_a_step_fits_into_what_it_runs_as_and_is_padded_no_more_than_it_must(descriptor, decode, mixed):
    chosen = dispatch(descriptor, GraphSizes(decode=decode, mixed=mixed))
    assert chosen.num_tokens >= descriptor.num_tokens
    assert chosen.num_requests >= descriptor.num_requests
    fitting = [size for size in decode if size >= descriptor.num_requests]
    if descriptor.is_decode and fitting:
        expected = (Mode.FULL, min(fitting), min(fitting))
    else:
        fitting = [size for size in mixed if descriptor.num_tokens <= size <= 2 * descriptor.num_tokens]
        mode, size = (Mode.PIECEWISE, min(fitting)) if fitting else (Mode.EAGER, descriptor.num_tokens)
        expected = (mode, size, descriptor.num_requests)
    assert (chosen.mode, chosen.num_tokens, chosen.num_requests) == expected


@given(descriptors())
def test_nothing_captured_means_nothing_padded(descriptor):
    assert dispatch(descriptor, GraphSizes()) == Dispatch(
        mode=Mode.EAGER, num_tokens=descriptor.num_tokens, num_requests=descriptor.num_requests
    )


@pytest.mark.parametrize(
    ("max_requests", "max_tokens", "largest"), [(1, 2048, 1), (100, 2048, 100), (256, 64, 64), (4096, 8192, 512)]
)
def test_the_usual_sizes_hold_the_largest_step_of_decodes_and_nothing_larger(max_requests, max_tokens, largest):
    sizes = GraphSizes.up_to(max_requests=max_requests, max_tokens=max_tokens)
    assert sizes.decode[-1] == largest
    assert list(sizes.decode) == sorted(set(sizes.decode))
    assert all(size <= max_tokens for size in sizes.mixed)
    without = GraphSizes.up_to(max_requests=max_requests, max_tokens=max_tokens, has_decode=False)
    assert (without.decode, without.mixed) == ((), sizes.mixed)


def test_the_largest_graphs_come_first_and_the_others_one_by_one_while_serving(new_stream):
    toy = Toy.start(new_stream(), wait=False, sizes=GRAPHS)
    graphs = toy.runner.graphs
    assert graphs.num_pending == 6
    graphs.capture_largest()
    assert graphs.sizes == GraphSizes(decode=(6,), mixed=(32,))
    run, prompt, seen = toy.run(depth=2), toy_prompt(1, 9), []
    run.add(0, prompt, GREEDY)
    run.step({0: 9})
    while graphs.capture_next():
        run.step({0: 1})
        seen.append(graphs.num_pending)
    run.finish()
    assert seen == [3, 2, 1, 0]
    assert graphs.sizes == GRAPHS
    assert run.outputs[0] == toy.model.greedy(prompt, 5)
