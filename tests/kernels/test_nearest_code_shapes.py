"""nearest_code over shapes, strides and types that hypothesis makes up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import INTERPRETER_NOISE, integers, search

from vqmm.kernels.nearest_code import nearest_code_reference

pytestmark = [pytest.mark.filterwarnings(noise) for noise in INTERPRETER_NOISE]

LAYOUTS = ("contiguous", "transposed", "every second", "reversed view", "expanded")
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same numbers (for "expanded": the first row, repeated) under other strides."""
    rows, width = x.shape
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "every second":
        wide = torch.full((2 * rows, 2 * width), 77.0, dtype=x.dtype)
        wide[::2, ::2] = x
        return wide[::2, ::2]
    if layout == "reversed view":
        return torch.cat([torch.full((rows, 3), 99.0, dtype=x.dtype), x], 1)[:, 3:]
    if layout == "expanded" and rows:
        return x[:1].expand(rows, width)
    return x


@settings(max_examples=150, deadline=None, database=None)
@given(
    n=st.integers(0, 70),
    k=st.integers(1, 90),
    width=st.integers(1, 40),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    metric=st.sampled_from(["euclidean", "dot"]),
    masked=st.booleans(),
    path=st.sampled_from(["cpu", "triton"]),
    seed=st.integers(0, 2**16),
)
def test_integers_in_any_layout_and_type(n, k, width, layouts, types, metric, masked, path, seed):
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(integers(generator, n, width, reach=2).to(types[0]), layouts[0])
    code = laid_out(integers(generator, k, width, reach=2).to(types[1]), layouts[1])
    mask = torch.rand(n, generator=generator) < 0.5 if masked else None
    kept = x.clone(), code.clone()
    index = search(path, x, code, metric, mask)
    assert index.dtype == torch.int32
    assert torch.equal(index, nearest_code_reference(x, code, metric=metric, mask_N=mask))
    assert torch.equal(x, kept[0]) and torch.equal(code, kept[1])  # inputs are not written
