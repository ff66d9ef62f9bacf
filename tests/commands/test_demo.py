"""What `penstock demo` starts, and which command lines it refuses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from penstock.commands.demo import add_arguments, default_words, given_words
from penstock.commands.members import ServicePlan, build_members, free_ports, reachable, write_key
from penstock.flags import Parser
from support.serving import run_cli


def parse(*words: str):
    parser = Parser(prog="penstock demo")
    add_arguments(parser)
    return parser.parse(words)


def plan(**changes) -> ServicePlan:
    settings = {"model": "/m", "roles": ("prefill", "decode", "decode"), "pod_words": ("--dtype", "float32")}
    settings |= {"router_host": "0.0.0.0", "router_port": 8000, "key_file": Path("/run/key")}
    return ServicePlan(**settings | changes)


def value_of(command: tuple[str, ...], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_flags_for_the_pods_are_passed_on_as_they_were_given():
    args = parse("--port", "9000", "--dtype", "float32", "--no-enable-prefix-caching", "--kv-cache-memory", "1GiB")
    words = given_words(args)
    assert words == ["--dtype", "float32", "--kv-cache-memory", "1GiB", "--no-enable-prefix-caching"]
    assert vars(parse(*words)) == {name: value for name, value in vars(args).items() if name != "port"}


def test_pods_get_a_share_of_the_machine_unless_told_otherwise():
    words = tuple(default_words(parse()))
    assert value_of(words, "--threads").isdecimal()
    assert value_of(words, "--kv-cache-memory").endswith("MiB")
    assert default_words(parse("--threads", "3", "--kv-cache-memory", "1GiB")) == list(words[4:])


def test_decode_pods_know_the_prefill_pod_and_the_router_knows_all():
    prefill, first, second, router = build_members(plan(), [1, 2, 3, 4, 5, 6])
    assert [each.name for each in (prefill, first, second, router)] == ["prefill-0", "decode-0", "decode-1", "router"]
    assert "--prefillers" not in prefill.command
    assert value_of(first.command, "--prefillers") == value_of(second.command, "--prefillers") == "127.0.0.1:2"
    assert value_of(router.command, "--decode") == "127.0.0.1:4,127.0.0.1:6"
    assert value_of(router.command, "--prefill") == "127.0.0.1:2"
    assert {value_of(each.command, "--cluster-key-file") for each in (prefill, first, router)} == {"/run/key"}
    assert first.command[-2:] == ("--dtype", "float32")
    assert (first.ready_url, router.ready_url) == ("http://127.0.0.1:3/readyz", "http://127.0.0.1:8000/readyz")


def test_pods_that_do_both_are_what_the_router_asks():
    *_, router = build_members(plan(roles=("both", "both")), [1, 2, 3, 4])
    assert value_of(router.command, "--decode") == "127.0.0.1:2,127.0.0.1:4"
    assert "--prefill" not in router.command


def test_ports_are_free_and_different_and_addresses_can_be_reached():
    assert len(set(free_ports(20))) == 20
    assert [reachable(host) for host in ("0.0.0.0", "::", "10.0.0.1")] == ["127.0.0.1", "[::1]", "10.0.0.1"]


def test_the_key_is_long_and_new_each_time(tmp_path):
    first, second = write_key(tmp_path).read_text(), write_key(tmp_path).read_text()
    assert first != second
    assert len(first) == 65
    assert stat.S_ISREG((tmp_path / "key").stat().st_mode)


@pytest.mark.parametrize("words", [["--role", "both"], ["--cluster-key-file", "x"], ["--dtype", "float7"], ["--x"]])
def test_flags_that_it_sets_itself_or_that_are_wrong_are_refused_in_one_line(words):
    done = run_cli("demo", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert words[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1
