"""API keys and the tenants behind them."""

from __future__ import annotations

from hashlib import sha256

import pytest

from penstock.errors import ConfigError, Unauthorized
from penstock.internal.credentials import ClusterKeys
from penstock.router.tenants import Tenants

NO_KEYS = ClusterKeys(None)


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


def test_without_keys_all_are_one_tenant():
    tenants = Tenants(None, (), NO_KEYS)
    assert tenants.identify(None) == tenants.identify(bearer("any"))
    assert tenants.identify(None).salt is None


def test_keys_may_stand_in_the_file_as_they_are_or_hashed(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# people\nann:secret-a\nbob:{sha256(b'secret-b').hexdigest()}\n")
    tenants = Tenants(file, ("secret-c",), NO_KEYS)
    assert tenants.identify(bearer("secret-a")).name == "ann"
    assert tenants.identify(bearer("secret-b")).name == "bob"
    assert tenants.identify(bearer("secret-c")).name.startswith("key-")
    for wrong in (None, b"", bearer("secret"), b"Basic secret-a", bearer(sha256(b"secret-b").hexdigest()), bearer("")):
        with pytest.raises(Unauthorized):
            tenants.identify(wrong)


def test_an_empty_file_lets_nobody_in(tmp_path):
    file = tmp_path / "keys"
    file.write_text("")
    with pytest.raises(Unauthorized):
        Tenants(file, (), NO_KEYS).identify(bearer(""))


def test_keys_come_and_go_with_the_file_and_stay_when_it_is_wrong(tmp_path):
    file = tmp_path / "keys"
    file.write_text("ann:one\n")
    tenants = Tenants(file, (), NO_KEYS)
    file.write_text("ann:two-is-new\n")
    assert tenants.identify(bearer("two-is-new")).name == "ann"
    with pytest.raises(Unauthorized):
        tenants.identify(bearer("one"))
    file.write_text("no key in this line, which is long\n")
    assert tenants.identify(bearer("two-is-new")).name == "ann"
    file.unlink()
    assert tenants.identify(bearer("two-is-new")).name == "ann"


def test_salts_differ_between_tenants_and_services_and_nobody_can_find_them_out(tmp_path):
    file, first, second = tmp_path / "keys", tmp_path / "first", tmp_path / "second"
    file.write_text("ann:one\nann:another\nbob:two\n")
    first.write_text("the key of a service")
    second.write_text("the key of another")
    salts = {
        (service, key): Tenants(file, (), ClusterKeys(path)).identify(bearer(key)).salt
        for service, path in (("none", None), ("first", first), ("second", second))
        for key in ("one", "another", "two")
    }
    assert salts["first", "one"] == salts["first", "another"]
    assert len(set(salts.values())) == 3 + 2 + 2
    assert all(len(salt) == 32 for salt in salts.values())


@pytest.mark.parametrize("text", ["ann\n", "ann:\n", ":key\n", "a b:key\n", "ann:key with spaces\n"])
def test_a_file_that_is_wrong_at_the_start_is_refused_with_its_line(tmp_path, text):
    file = tmp_path / "keys"
    file.write_text("# first\n" + text)
    with pytest.raises(ConfigError, match="line 2"):
        Tenants(file, (), NO_KEYS)
