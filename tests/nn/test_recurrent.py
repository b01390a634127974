"""LSTMs under autocast: float32 on a CPU."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vqmm.nn.recurrent import recurrent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing_on_a_cpu(dtype):
    torch.manual_seed(0)
    lstm, x = nn.LSTM(5, 7, 2, batch_first=True), torch.randn(3, 4, 5).to(dtype)
    state = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    right, (out, kept) = lstm(x.float(), state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, (found_out, found_kept) = recurrent(lstm, x, state)
    assert torch.equal(found, right) and torch.equal(found_out, out) and torch.equal(found_kept, kept)


def test_sequences_of_several_lengths():
    torch.manual_seed(0)
    lstm, x = nn.LSTM(5, 7, batch_first=True, bidirectional=True), torch.randn(3, 4, 5)
    packed = pack_padded_sequence(x.bfloat16(), torch.tensor([4, 1, 2]), batch_first=True, enforce_sorted=False)
    right, _ = pad_packed_sequence(lstm(packed.to(torch.float32))[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = pad_packed_sequence(recurrent(lstm, packed)[0])
    assert found.dtype == torch.float32 and torch.equal(found, right)
