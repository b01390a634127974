"""A quantizer does not ask whether there are processes when it is built: only the reduction it is given knows."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from vqmm.quantizers.vector import VectorQuantizer


def make() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(VectorQuantizer.Options(codebook_size=12, dim=4, revive_below=0.3)).train()


def summed(value):
    dist.all_reduce(value)
    return value


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    before = make()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    after = make()
    for step in range(6):
        z = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(step)) + 50 * (step > 2)  # kills codes
        mine = z[:0] if step == 4 and rank else z[rank * 4 : rank * 4 + 4]
        for quantizer in (before, after):
            quantizer(mine.clone().requires_grad_())
            quantizer.after_step(summed, step / 6)
    for name, quantizer in (("before", before), ("after", after)):
        save_file(quantizer.state_dict(), f"{folder}/{name}-{rank}.safetensors")
    dist.destroy_process_group()


def test_built_before_or_after_the_group_all_ranks_hold_the_same_bits(tmp_path):
    mp.start_processes(work, (str(tmp_path),), nprocs=2, start_method="forkserver")
    states = [load_file(file) for file in sorted(tmp_path.glob("*.safetensors"))]
    assert len(states) == 4
    start = make().state_dict()
    assert not torch.equal(states[0]["codebook"], start["codebook"]) and states[0]["steps"] == 6
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())
