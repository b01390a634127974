"""Attention of one query to a cache: every loop that this machine can run, and torch's own, mean the same."""

import warnings

import pytest
import torch

from tests.covering import pairs
from vqmm.kernels.cached_attention import cached_attention, cached_attention_reference, cpu

PATHS = (*cpu.loops(), "torch")


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Runs one loop alone; "torch": none."""
    monkeypatch.setattr(cpu, "loops", {k: v for k, v in cpu.loops().items() if k == request.param}.copy)
    monkeypatch.setattr(cpu, "warned", True)
    return request.param


def some(generator, batch, heads, length, size, scale=1.0):
    """A query with gaps between sequences, as a step of the transformer has it, and a cache."""
    query = torch.randn(batch, 3, heads, size, generator=generator)[:, 0] * scale
    return query, torch.randn(batch, 2, heads, length, size, generator=generator)


@pairs(indirect=["path"], path=PATHS, size=[4, 8, 12, 16, 24, 40, 64, 80, 100], filled=[1, 2, 15, 16, 17, 33])
def test_what_attention_gives(path, size, filled, generator):
    query, cache = some(generator, 3, 2, 33, size)
    cache[:, :, :, filled:] = float("nan")  # what nobody wrote is not read
    out = cached_attention(query, cache, filled)
    assert out.dtype == torch.float32 and out.shape == (3, 2, size)
    torch.testing.assert_close(out.double(), cached_attention_reference(query, cache, filled), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 30.0, 1e4])
def test_scores_of_any_size(path, scale, generator):
    """No score: the mean of the values. Scores far apart: the value of the best key, and nothing overflows."""
    query, cache = some(generator, 2, 4, 20, 32, scale)
    out = cached_attention(query, cache, 20)
    torch.testing.assert_close(out.double(), cached_attention_reference(query, cache, 20), atol=1e-5, rtol=1e-4)
    if scale == 0:
        torch.testing.assert_close(out, cache[:, 1].mean(2), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_a_number_that_is_none_is_not_hidden(path, where, generator):
    query, cache = some(generator, 2, 2, 20, 16)
    {"query": query[0, 1], "key": cache[0, 0, 1, 7], "value": cache[0, 1, 1, 7]}[where][:] = float("nan")
    out = cached_attention(query, cache, 19)
    assert out[0, 1].isnan().all() and out.isfinite().sum() == 3 * 16


def test_a_sequence_does_not_depend_on_those_beside_it(generator):
    if not cpu.loops():
        pytest.skip("the compiled loop is not built here: pip install -e .")
    query, cache = some(generator, 7, 4, 50, 48)
    together = cached_attention(query, cache, 41)
    alone = [cached_attention(query[i : i + 1], cache[i : i + 1], 41) for i in range(7)]
    assert torch.equal(together, torch.cat(alone))


def test_no_sequences(path):
    assert cached_attention(torch.empty(0, 4, 16), torch.empty(0, 2, 4, 9, 16), 3).shape == (0, 4, 16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_keep_theirs(dtype, generator):
    query, cache = (x.to(dtype) for x in some(generator, 2, 2, 9, 16))
    out = cached_attention(query, cache, 9)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), cached_attention_reference(query, cache, 9), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("filled, length, size", [(0, 9, 16), (10, 9, 16), (3, 9, 12)])
def test_what_does_not_fit(filled, length, size):
    with pytest.raises(ValueError, match="are needed"):
        cached_attention(torch.zeros(2, 4, 16), torch.zeros(2, 2, 4, length, size), filled)


def test_without_the_helper_it_says_so_once(monkeypatch, generator):
    monkeypatch.setattr(cpu, "loops", dict)
    monkeypatch.setattr(cpu, "warned", False)
    query, cache = some(generator, 2, 2, 9, 16)
    with pytest.warns(UserWarning, match="get a C\\+\\+ compiler .* install vqmm again"):
        cached_attention(query, cache, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_attention(query, cache, 9)


def test_with_more_threads_torch_takes_what_is_large(monkeypatch, generator):
    query, cache = some(generator, 2, 2, 9, 16)
    asked = []
    monkeypatch.setattr("vqmm.kernels.cached_attention.attend_cpu", lambda *given: asked.append(given))
    monkeypatch.setattr("vqmm.kernels.cached_attention.SMALL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert cached_attention(query, cache, 9) is not None and not asked
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    cached_attention(query, cache, 9)
    assert len(asked) == bool(cpu.loops())


def test_a_helper_of_another_version_is_not_used(monkeypatch):
    if not cpu.loops():
        pytest.skip("the compiled loop is not built here: pip install -e .")
    assert cpu.loops().keys() >= {"generic"}
    monkeypatch.setattr(cpu, "ABI", -1)
    assert cpu.helper.__wrapped__() is None
