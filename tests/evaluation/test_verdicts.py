"""What is kept of each image: the same verdicts again, whose sums are the evaluation's numbers."""

import numpy as np
import pytest
import torch

from wsol_ext.evaluation.measures import Measures
from wsol_ext.evaluation.verdicts import Verdicts, read_parts, write_part
from wsol_ext.metrics import PROTOCOLS, Batch

PROTOCOL_NAMES = ["maxboxacc", "maxboxaccv2", "toploc", "corloc", "pxap"]


def batch(count, seed):
    random = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[60, 40]]).expand(count, 2)
    boxes = [torch.tensor([[5.0, 4.0, 30.0 + k, 30.0]]) for k in range(count)]
    maps = torch.rand(count, 7, 7, generator=random)
    masks = (torch.rand(count, 9, 9, generator=random) > 0.5).to(torch.uint8)
    logits = torch.rand(count, 3, generator=random)
    return Batch(maps, logits, torch.arange(count) % 3, boxes, sizes, masks)


def test_numbers_of_verdicts_from_files_are_those_of_one_pass(tmp_path):
    at_once, again = (Measures("own", PROTOCOL_NAMES, 0.05, "best") for _ in range(2))
    for part, count in enumerate((3, 2)):
        shown = batch(count, part)
        at_once.update("whole", shown)
        found = {key: each.numpy() for key, each in again.judge("whole", shown).items()}
        index = np.arange(count) + 3 * part
        columns = {"box": np.full((count, 4), part)}
        write_part(tmp_path, str(part), Verdicts(index, index.astype(str), found, columns))
    parts = list(read_parts(tmp_path))
    assert [part.index.tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert parts[1].image.tolist() == ["3", "4"]
    assert parts[1].columns["box"].tolist() == [[1] * 4] * 2
    for part in parts:
        again.add({key: torch.from_numpy(each.astype(int)) for key, each in part.verdicts.items()})
    assert again.results() == at_once.results()
    assert parts[0].verdicts["maxboxaccv2/own"].shape == (3, 3, 20)
    assert parts[0].verdicts["maxboxaccv2/own"].dtype == bool


def test_verdicts_of_one_bit_are_no_counts(tmp_path):
    one = np.array([[True], [False]])
    write_part(tmp_path, "a", Verdicts(np.arange(2), np.array(["x", "y"]), {"p/s": one}))
    (part,) = read_parts(tmp_path)
    assert part.verdicts["p/s"].dtype == bool
    assert part.verdicts["p/s"].tolist() == one.tolist()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_part_is_named(tmp_path, content):
    (tmp_path / "part-0.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"part-0\.npz: it is no part"):
        list(read_parts(tmp_path))


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_many_sums_at_once_give_what_each_gives(name):
    protocol = PROTOCOLS[name].make(interval=0.05, threshold="best")
    verdicts = protocol.judge(batch(6, 1)).long()
    drawn = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 3, 1, 2, 0, 0]])
    sums = torch.einsum("ri,i...->r...", drawn, verdicts)
    found = protocol.numbers(sums, torch.tensor([6, 6]))
    for row in range(2):
        alone = PROTOCOLS[name].make(interval=0.05, threshold="best")
        alone.add(verdicts.repeat_interleave(drawn[row], dim=0))
        assert {key: float(values[row]) for key, values in found.items()} == alone.compute()
