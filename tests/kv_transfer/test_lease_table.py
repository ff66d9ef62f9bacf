from __future__ import annotations

import multiprocessing

import pytest

from penstock.kv_transfer.lease_table import NUM_LEASES, LeaseTable


@pytest.fixture
def table(tmp_path):
    return LeaseTable(tmp_path / "leases", is_new=True)


def test_a_lease_is_good_until_it_ends(table):
    row, epoch = table.grant(5.0)
    assert table.is_good(row, epoch)
    assert not table.is_good(row, epoch + 1)
    assert table.num_held == 1
    table.end(row)
    assert not table.is_good(row, epoch)
    assert table.num_held == 0


def test_a_row_that_is_granted_again_has_another_epoch(table):
    row, first = table.grant(5.0)
    table.end(row)
    again, second = table.grant(6.0)
    assert (again, first != second) == (row, True)
    assert not table.is_good(row, first)


def test_only_the_lease_that_is_held_can_be_renewed(table):
    row, epoch = table.grant(5.0)
    assert table.renew(row, epoch, 7.0)
    assert not table.renew(row, epoch + 1, 9.0)
    assert not table.renew(NUM_LEASES, epoch, 9.0)
    assert not table.renew(-1, epoch, 9.0)
    assert table.renewed_at(row) == 7.0


def test_a_free_row_is_nobodys_lease(table):
    assert not table.is_good(0, 0)
    assert not table.renew(0, 0, 1.0)


def test_a_full_table_grants_nothing(table):
    for _ in range(NUM_LEASES):
        assert table.grant(0.0) is not None
    assert table.grant(0.0) is None


def renew_elsewhere(file, row, epoch):
    LeaseTable(file).renew(row, epoch, 42.0)


def test_another_process_renews_what_this_one_granted(tmp_path, table):
    row, epoch = table.grant(5.0)
    child = multiprocessing.get_context("spawn").Process(target=renew_elsewhere, args=(tmp_path / "leases", row, epoch))
    child.start()
    child.join(30)
    assert table.renewed_at(row) == 42.0
