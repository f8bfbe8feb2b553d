import pytest

from wsol_ext.data import UnpaddedDistributedSampler


@pytest.mark.parametrize(("length", "processes"), [(10, 1), (10, 3), (2, 4), (0, 2), (7, 7)])
def test_each_sample_goes_to_one_process_once(length, processes):
    shares = [
        UnpaddedDistributedSampler(range(length), processes, rank) for rank in range(processes)
    ]
    assert sorted(index for share in shares for index in share) == list(range(length))
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]


def test_one_process_without_a_group_takes_all():
    assert list(UnpaddedDistributedSampler(range(3))) == [0, 1, 2]


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_out_of_range_is_an_error(rank):
    with pytest.raises(ValueError, match=f"rank is {rank}, it should be 0 to 1"):
        UnpaddedDistributedSampler(range(5), 2, rank)
