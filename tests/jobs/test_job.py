"""The records themselves: ids, claims, what has ended."""

from datetime import timedelta
from random import Random
from uuid import RFC_4122, UUID

import pytest

from tests.helpers import NOON, make_job
from trioqueue.jobs.job import FINAL, Claim, NodeId, Status, new_job_id


class Ones(Random):
    """Every bit that is asked for is a one: what is not drawn stands out."""

    def getrandbits(self, k: int) -> int:
        return (1 << k) - 1


def test_an_id_is_a_uuid_of_version_7_that_says_when_it_was_made() -> None:
    id = UUID(new_job_id(NOON + timedelta(milliseconds=7, microseconds=900), Random(0)))
    assert (id.version, id.variant) == (7, RFC_4122)
    assert id.int >> 80 == int(NOON.timestamp()) * 1000 + 7


def test_an_id_holds_74_random_bits_and_leaves_the_others_alone() -> None:
    assert new_job_id(NOON, Ones())[13:] == "-7fff-bfff-ffffffffffff"
    assert len({new_job_id(NOON, Random(seed)) for seed in range(100)}) == 100


def test_ids_stand_in_the_order_of_their_milliseconds() -> None:
    ids = [new_job_id(NOON + timedelta(milliseconds=number), Random(-number)) for number in range(50)]
    assert ids == sorted(ids)


@pytest.mark.parametrize("status", Status)
def test_a_job_has_ended_when_its_status_is_final(status: Status) -> None:
    assert make_job(status=status).is_final is (status in FINAL)


def test_the_fence_of_a_claim_is_the_epoch_of_its_job() -> None:
    assert Claim(job=make_job(epoch=3), node=NodeId("alice")).epoch == 3
