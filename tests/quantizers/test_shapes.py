"""Any shape of latents, any size of codebook: the same promises."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.quantizers.vector import VectorQuantizer

grids = st.integers(1, 3).flatmap(lambda rank: st.tuples(*[st.integers(1, 5)] * rank))


@settings(deadline=None, max_examples=60)
@given(
    grid=grids,
    batch=st.integers(0, 3),
    size=st.integers(1, 40),
    dim=st.integers(1, 17),
    update=st.sampled_from(["ema", "gradient"]),
    metric=st.sampled_from(["euclidean", "cosine"]),
    project=st.sampled_from([None, 1, 3]),
    masked=st.booleans(),
)
def test_shapes_ranges_and_the_way_back(grid, batch, size, dim, update, metric, project, masked):
    options = {"codebook_size": size, "dim": dim, "update": update, "metric": metric, "project": project}
    quantizer = VectorQuantizer(VectorQuantizer.Options(**options), rank=len(grid))
    z = torch.randn(batch, dim, *grid, requires_grad=True)
    mask = torch.rand(batch, *grid) < 0.7 if masked else None
    if batch and (mask is None or mask.any()):
        quantizer.initialise(z.detach(), mask)
    for _ in range(2):
        found = quantizer.train()(z, mask)
        sum(found.losses.values(), found.vectors.sum()).backward()
        quantizer.after_step(lambda value: value, 0.5)
    found = quantizer.eval()(z, mask)
    (codes,) = found.codes.maps
    assert found.vectors.shape == z.shape and codes.shape == (batch, 1, *grid)
    assert ((codes >= 0) & (codes < size)).all()
    assert torch.equal(quantizer.lookup(found.codes), found.vectors)
    assert found.codes.size.tolist() == [list(grid)] * batch
    assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values())
    assert all(loss.isfinite() for loss in found.losses.values())
