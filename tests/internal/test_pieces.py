from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.internal.credentials import ClusterKeys
from penstock.internal.pieces import BrokenPiece, PieceReader, PieceWriter
from penstock.internal.protocol import Announcement, Computed, Ended, Granted

MESSAGES = [
    Granted(lease=3, epoch=1 << 62, seconds=10.0),
    Computed(start=0, blocks=[7, 9], checksums=[(1, 5)]),
    Ended(),
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "key"
    file.write_bytes(b"a key of the service")
    return ClusterKeys(file)


def written(keys, nonce=b"nonce", messages=MESSAGES):
    writer = PieceWriter(keys, nonce)
    return [writer.write(message) for message in messages]


@given(st.lists(st.integers(1, 60), max_size=8))
def test_messages_arrive_however_the_bytes_are_cut(keys, cuts):
    data, reader, found = b"".join(written(keys)), PieceReader(keys, b"nonce", Announcement), []
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[:cut])
        data = data[cut:]
    assert found == MESSAGES


@given(st.data())
def test_any_changed_byte_is_noticed_before_its_message_counts(keys, data):
    pieces = written(keys)
    whole = bytearray(b"".join(pieces))
    index = data.draw(st.integers(0, len(whole) - 1))
    whole[index] ^= data.draw(st.integers(1, 255))
    reader, found = PieceReader(keys, b"nonce", Announcement), []
    try:
        found = reader.feed(bytes(whole))
    except BrokenPiece:
        return
    assert found == MESSAGES[: len(found)]
    assert len(found) < len(MESSAGES), "a changed stream was taken for whole"


@pytest.mark.parametrize("order", [[1], [0, 0], [0, 2], [1, 0, 2]])
def test_pieces_that_are_repeated_left_out_or_swapped_are_refused(keys, order):
    pieces = written(keys)
    with pytest.raises(BrokenPiece):
        PieceReader(keys, b"nonce", Announcement).feed(b"".join(pieces[index] for index in order))


def test_the_answer_to_another_call_is_refused(keys):
    with pytest.raises(BrokenPiece):
        PieceReader(keys, b"other nonce", Announcement).feed(written(keys)[0])


def test_the_answer_of_someone_without_the_key_is_refused(keys):
    with pytest.raises(BrokenPiece):
        PieceReader(keys, b"nonce", Announcement).feed(written(ClusterKeys(None))[0])


def test_a_message_of_another_kind_is_refused(keys):
    with pytest.raises(BrokenPiece):
        PieceReader(keys, b"nonce", Granted).feed(written(keys, messages=[Ended()])[0])


def test_a_length_that_is_absurd_is_refused_at_once(keys):
    with pytest.raises(BrokenPiece, match="bytes"):
        PieceReader(keys, b"nonce", Announcement).feed(b"\xff\xff\xff\xff")
