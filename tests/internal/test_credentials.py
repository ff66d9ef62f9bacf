from __future__ import annotations

import msgspec
import pytest

from penstock.errors import ConfigError, Unauthorized
from penstock.internal.credentials import TOKEN_SECONDS, Caller, Claims, ClusterKeys, query_claims

KEY, OTHER, BODY = b"a key of the service", b"another key, longer", b"a body"


def keys_of(folder, *lines):
    file = folder / "key"
    file.write_bytes(b"\n".join(lines))
    return ClusterKeys(file)


def token_for(keys, body=BODY, *, purpose="/call", now=100.0, session="life"):
    caller = Caller(keys)
    caller.learn(session, now, 0.0)
    return keys.sign(caller.claims(purpose, body, 0.0, request_id="r-1", tenant="t")).encode()


def verify(keys, token, *, purpose="/call", body=BODY, session="life", now=100.0):
    return keys.verify(token, purpose=purpose, body=body, session=session, now=now)


def test_a_token_says_who_asks_for_what(tmp_path):
    keys = keys_of(tmp_path, KEY)
    claims = verify(keys, token_for(keys))
    assert (claims.request_id, claims.tenant, claims.purpose) == ("r-1", "t", "/call")


@pytest.mark.parametrize(
    "change",
    [{"purpose": "/other"}, {"body": b"another body"}, {"session": "next life"}, {"now": 101.0 + TOKEN_SECONDS}],
)
def test_a_token_is_good_for_one_call_to_one_life_for_a_while(tmp_path, change):
    keys = keys_of(tmp_path, KEY)
    with pytest.raises(Unauthorized):
        verify(keys, token_for(keys), **change)


def test_a_token_that_would_be_good_for_ever_is_refused(tmp_path):
    keys = keys_of(tmp_path, KEY)
    with pytest.raises(Unauthorized):
        verify(keys, token_for(keys, now=1e9))


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer x", b"Penstock", b"Penstock .", b"Penstock \xff.\xff", b"Penstock e30.00"]
)
def test_what_is_no_token_is_refused(tmp_path, header):
    with pytest.raises(Unauthorized):
        verify(keys_of(tmp_path, KEY), header)


def test_a_changed_token_is_refused_wherever_it_was_changed(tmp_path):
    keys = keys_of(tmp_path, KEY)
    token = token_for(keys)
    for index in range(len(b"Penstock "), len(token)):
        changed = token[:index] + (b"A" if token[index : index + 1] != b"A" else b"B") + token[index + 1 :]
        with pytest.raises(Unauthorized):
            verify(keys, changed)


def test_a_key_changes_without_a_restart_and_the_previous_one_is_still_good(tmp_path):
    keys = keys_of(tmp_path, KEY)
    old = token_for(keys)
    (tmp_path / "new").write_bytes(OTHER + b"\n" + KEY)
    (tmp_path / "new").rename(tmp_path / "key")
    verify(keys, old)
    new = token_for(keys)
    (tmp_path / "key").write_bytes(OTHER)
    verify(keys, new)
    with pytest.raises(Unauthorized):
        verify(keys, old)


def test_a_key_file_that_vanishes_leaves_the_keys_that_were_read(tmp_path):
    keys = keys_of(tmp_path, KEY)
    token = token_for(keys)
    (tmp_path / "key").unlink()
    verify(keys, token)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"short"])
def test_a_file_without_a_proper_key_is_refused_at_start(tmp_path, content):
    with pytest.raises(ConfigError, match="--cluster-key-file"):
        keys_of(tmp_path, content)


def test_a_missing_file_is_refused_at_start(tmp_path):
    with pytest.raises(ConfigError, match="--cluster-key-file"):
        ClusterKeys(tmp_path / "nothing")


def test_without_a_key_everybody_is_trusted(tmp_path):
    keys = ClusterKeys(None)
    assert not keys.is_set
    assert verify(keys, None) == Claims(purpose="", nonce=b"", digest=b"")


def test_a_query_needs_no_session(tmp_path):
    keys = keys_of(tmp_path, KEY)
    token = keys.sign(query_claims("/load")).encode()
    assert keys.verify(token, purpose="/load", body=b"", session="any", now=5.0).purpose == "/load"


def test_a_query_token_is_not_good_for_a_call_with_a_body(tmp_path):
    keys = keys_of(tmp_path, KEY)
    token = keys.sign(query_claims("/call")).encode()
    with pytest.raises(Unauthorized):
        verify(keys, token)


def test_claims_survive_the_wire():
    claims = query_claims("/load")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(claims), type=Claims) == claims
