from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.internal.frames import HEAD, BrokenFrame, Frame, FrameKind, FrameReader

frames = st.lists(st.builds(Frame, st.sampled_from(FrameKind), st.binary(max_size=40), st.binary(max_size=40)))


@given(frames, st.lists(st.integers(1, 50), max_size=12))
def test_whole_frames_come_out_however_the_bytes_are_cut(sent, cuts):
    data, reader, found = b"".join(frame.to_bytes() for frame in sent), FrameReader(), []
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[:cut])
        data = data[cut:]
    assert found == sent


def test_the_beginning_of_a_frame_is_no_frame():
    data = Frame(FrameKind.EVENT, b"record", b"payload").to_bytes()
    for cut in range(len(data)):
        assert FrameReader().feed(data[:cut]) == []


@pytest.mark.parametrize("head", [HEAD.pack(6, 0, 0), HEAD.pack(0, 1 << 31, 0), HEAD.pack(0, 0, 1 << 31)])
def test_bytes_that_are_no_frame_are_refused(head):
    with pytest.raises(BrokenFrame):
        FrameReader().feed(head)
