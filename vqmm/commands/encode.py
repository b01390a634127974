"""`vqmm encode`: files to a folder of token shards, by one process or several; what was killed goes on.

The samples, in their stable order, are cut into shards of a fixed number before anything is read. A shard is made by
one process from its own samples alone, in batches that do not reach beyond it, so its bytes depend on neither how many
processes there are nor on which were killed. It takes its name when it is whole; PLAN, written first, says what the
shards are of and how many there are to be.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqmm.commands.bitrate import choose_rate
from vqmm.contracts.batch import Batch, Codes
from vqmm.registry import Registry
from vqmm.tokenizer.inputs import Inputs, batches, may_pad, read
from vqmm.tokenizer.long_signals import PIECE_VALUES, encode_long
from vqmm.tokenizer.model import evaluating
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import (
    PLAN,
    READING_ERRORS,
    Header,
    Row,
    ShardWriter,
    Tally,
    codes_of,
    read_tally,
    rows_of,
    shard_path,
    shards_of,
)
from vqmm.utils.errors import Remark, Stopped, UserError
from vqmm.utils.files import must_be_free, must_be_writable, new_folder, write_text
from vqmm.utils.signals import StopRequest

SAMPLES_A_SHARD = 1024  # what one process does at a time, and the most that each loses when it is killed

CLOSE = 1e-4  # of the largest number of a sample's vectors: how far decoded ones may be off by rounding


class EncodeStopped(Stopped):
    """Not an error: an encode that left because of a signal, its finished shards in place."""

    def __init__(self, done: int, shards: int, signum: int):
        super().__init__(done, signum)
        self.shards = shards
        self.args = (f"stopped by {signal.Signals(signum).name} with {done} of {shards} shards: go on with --resume",)

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodeStopped, (self.step, self.shards, self.signum)


@dataclass(frozen=True)
class EncodePlan:
    """What an encode makes, as its folder remembers it: all of it decides which bytes the shards have."""

    code_fingerprint: str
    data_fingerprint: str
    samples: int
    shard_samples: int
    stages: int
    vectors: bool

    @property
    def shards(self) -> int:
        """How many shards there are to be; the last may be of fewer samples than the others."""
        return -(-self.samples // self.shard_samples)

    def to_json(self) -> str:
        """The text of the file PLAN, by which a later call sees whether it would make the same shards."""
        return json.dumps({"format": 1, "shards": self.shards, **dataclasses.asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class EncodeJob:
    """What every process is told."""

    run: str
    inputs: tuple[str, ...]
    out: Path
    plan: EncodePlan
    augment: int
    strict: bool
    plugins: tuple[str, ...]


def encode(
    run: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    stages: int | None = None,
    bitrate_kbps: float | None = None,
    vectors: bool = False,
    augment: int = 0,
    strict: bool = False,
    plugins: Sequence[str] = (),
    resume: bool = False,
    processes: int = 1,
    shard_samples: int = SAMPLES_A_SHARD,
) -> dict[str, Any]:
    """Turn files into a folder of token shards (Parquet). Samples are taken whole, uncropped; long lines (sound) go
    through the networks in pieces, with the codes of the whole (`vqmm.tokenizer.long_signals`).

    Args:
        stages: only the first so many codes of each position, for a quantizer with several.
        bitrate_kbps: as many stages as fit into a rate, for signals measured in seconds.
        vectors: write beside the codes the vectors that they stand for, as features (`vqmm.tokens.shards` says how).
        augment: after each training sample also so many altered ones (`Modality.augment`), of `cat.png` `cat~1.png` and
            so on: a prior learns small data sets by heart otherwise.
        strict: refuse damaged samples; otherwise they are skipped, counted and named.
        resume: go on where the same call was killed or stopped; without anything there, start.
        processes: how many shards are made at a time. They are spawned, so a program that asks for several must have
            its own `if __name__ == "__main__":`. Of several shards each is made by one thread, whatever `processes`.
        shard_samples: of each shard but the last, damaged ones counted.

    Returns:
        The folder, how many samples and codes it holds, their nominal bits, the stages used and their nominal
        `bitrate_kbps` (null where the signal is not measured in seconds), and what could not be read; over all its
        shards, whichever call made them.

    Raises:
        UserError: the run has no codes, or none at that rate; an input that does not exist or holds nothing; two
            samples of one name; with `strict`, a damaged sample; with `resume`, something else was begun there.
        Stopped: SIGTERM or SIGINT came.

    Whatever ends it, finished shards stay for `resume`; where there is none, nothing is left.
    """
    out = Path(out)
    for name, value in (("processes", processes), ("shard_samples", shard_samples)):
        if value < 1:
            raise UserError(f"{name} {value}: take 1 or more")
    (must_be_writable if resume else must_be_free)(out, "the token folder")
    tokenizer = Tokenizer.load(Path(run), Registry.discover(plugins))
    rate = choose_rate(tokenizer, stages, bitrate_kbps)
    resolved_inputs = Inputs.of(tokenizer.modality, inputs, "encode").with_augmented(tokenizer.modality, augment)
    fingerprints = (tokenizer.code_fingerprint(), resolved_inputs.fingerprint())
    plan = EncodePlan(*fingerprints, len(resolved_inputs.samples), shard_samples, rate.stages, vectors)
    paths = [inputs] if isinstance(inputs, str | Path) else inputs
    job = EncodeJob(str(run), tuple(map(str, paths)), out, plan, augment, strict, tuple(plugins))
    with _all_or_whole_shards(out, plan, resume), StopRequest() as request:
        _make_shards(job, Work(job, tokenizer, resolved_inputs), processes, request)
        tally = _total(out, plan)
    result = {"tokens": str(out), "samples": tally.rows, "codes": tally.codes, "bits": tally.bits}
    result |= {"stages": rate.stages, "bitrate_kbps": rate.bitrate_kbps}
    return {**result, "code_fingerprint": plan.code_fingerprint, "unreadable": tally.unreadable}


# The folder


@contextmanager
def _all_or_whole_shards(out: Path, plan: EncodePlan, resume: bool) -> Iterator[None]:
    """The folder with its plan. After a failure finished shards stay, and without one the disk is as it was before."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    _begin(out, plan, resume)
    try:
        yield
    except BaseException:
        _remove_halves(out)
        if not shards_of(out):
            (out / PLAN).unlink()
            for folder in made:
                folder.rmdir()
        raise


def _remove_halves(out: Path) -> None:
    """What killed processes left behind."""
    for half in out.glob(".part-*.tmp"):
        half.unlink(missing_ok=True)


def _begin(out: Path, plan: EncodePlan, resume: bool) -> None:
    """Make the folder with its plan; or with `resume`, see that what is there is of the same plan."""
    file = out / PLAN
    if resume and file.is_file():
        _must_be_same(out, plan)
        _remove_halves(out)
        return
    if resume and out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is no encode to resume: it has no {PLAN}; encode into another folder")
    must_be_free(out, "the token folder")
    with new_folder(out) as folder:
        write_text(folder / PLAN, plan.to_json())


def _must_be_same(out: Path, plan: EncodePlan) -> None:
    """Refuse to go on with another plan; a `UserError` that names what differs."""
    try:
        was, now = json.loads((out / PLAN).read_text(encoding="utf-8")), json.loads(plan.to_json())
        differ = [f"{name} was {was[name]} and is {now[name]}" for name in now if was[name] != now[name]]
    except READING_ERRORS as error:
        raise UserError(f"{out / PLAN} is damaged ({' '.join(repr(error).split())[:160]}): encode anew") from None
    if differ:
        raise UserError(f"{out} was begun otherwise: {', '.join(differ)}: repeat the command it was begun with")


def _total(out: Path, plan: EncodePlan) -> Tally:
    """All shards together. A `UserError` where no sample could be read: then the shards are removed."""
    total = Tally()
    for file in shards_of(out):
        tally = read_tally(file)
        total.rows, total.codes, total.bits = (
            total.rows + tally.rows,
            total.codes + tally.codes,
            total.bits + tally.bits,
        )
        total.unreadable += tally.unreadable
    if not total.rows:
        for file in shards_of(out):
            file.unlink()
        raise UserError(f"none of the {plan.samples} samples can be read; the first: {total.unreadable[0]}")
    return total


# One shard


class Work:
    """A tokenizer and all samples: makes any shard of a plan."""

    def __init__(self, job: EncodeJob, tokenizer: Tokenizer, inputs: Inputs):
        self.job, self.tokenizer, self.inputs = job, tokenizer, inputs
        dim = tokenizer.quantizer.options.dim if job.plan.vectors else None
        name, sizes = tokenizer.modality.name, tokenizer.quantizer.sizes
        self.header = Header(job.plan.code_fingerprint, name, sizes, dim, inputs.rule)

    def shard(self, number: int, request: StopRequest | None = None) -> None:
        """Encode the samples of one shard, in batches of neighbours; `request`: between two of them, leave if asked."""
        plan, tokenizer = self.job.plan, self.tokenizer
        shard_slice = slice(number * plan.shard_samples, (number + 1) * plan.shard_samples)
        samples = self.inputs.samples[shard_slice]
        split_of = dict(zip((sample.key for sample in samples), self.inputs.splits[shard_slice], strict=True))
        with ShardWriter(self.job.out, self.header, number, partial(check_decodes, tokenizer)) as writer:
            readable = read(samples, writer.tally.unreadable, self.job.strict)
            for some, values in batches(readable, may_pad(tokenizer)):
                if request is not None and request.signum:
                    raise _stopped(self.job, request.signum)
                batch = tokenizer.modality.collate(values, [sample.key for sample in some])
                codes, vectors = _encoded(tokenizer, batch, plan.stages)
                wanted = plan.vectors or not writer.tally.rows  # the first row's are what the check looks at
                labels, splits = [sample.label for sample in some], [split_of[key] for key in batch.key]
                for row in rows_of(codes, batch.key, labels, vectors if wanted else None, splits):
                    writer.add(row)


@torch.no_grad()
def _encoded(tokenizer: Tokenizer, batch: Batch, stages: int) -> tuple[Codes, Tensor]:
    """The codes of a batch, and the vectors that the quantizer gave with them; of a long line, those it would give."""
    with evaluating(tokenizer):
        if tokenizer.modality.rank == 1 and batch.x.numel() > PIECE_VALUES:
            codes = encode_long(tokenizer, batch, stages)
            return codes, tokenizer.quantizer.lookup(codes)
        quantized = tokenizer.quantize(batch.to(tokenizer.device), stages)
    assert quantized.codes is not None  # choose_rate has seen to it
    return quantized.codes, quantized.vectors


@torch.no_grad()
def check_decodes(tokenizer: Tokenizer, row: Row, again: Row) -> None:
    """A `UserError` where `again`, codes from the disk, does not decode to the vectors that encoding ended in."""
    if row.vectors is None:
        raise ValueError(f"{row.key!r} came without its vectors")
    with evaluating(tokenizer):
        decoded = tokenizer.quantizer.lookup(codes_of([again], {}).to(tokenizer.device))[0]
    expected = torch.from_numpy(row.vectors).movedim(-1, 0)
    # not bit for bit: a product of one row may be rounded otherwise than that of a batch
    slack = CLOSE * expected.abs().amax() if expected.numel() else 0.0
    if decoded.shape != expected.shape or not bool(((decoded.float().cpu() - expected).abs() <= slack).all()):
        raise UserError(
            f"the codes of {row.key!r} do not decode to what was encoded: the quantizer {tokenizer.quantizer.name!r} "
            "looks up other vectors than its forward gives (vqmm.testing.check_quantizer says more)"
        )


# One process, or several


def _make_shards(job: EncodeJob, work: Work, processes: int, request: StopRequest) -> None:
    """Those that are not there yet."""
    missing = [number for number in range(job.plan.shards) if not shard_path(job.out, number).exists()]
    damaged = [said for file in shards_of(job.out) for said in read_tally(file).unreadable]
    if job.strict and damaged:
        raise UserError(f"{job.out} was begun without strict, and lacks {len(damaged)} damaged samples: {damaged[0]}")
    with _threads(1 if job.plan.shards > 1 else None):  # one shard is one process's anyway: it may take all threads
        if processes > 1 and len(missing) > 1:
            _by_processes(job, missing, min(processes, len(missing)), request)
        else:
            for number in missing:
                work.shard(number, request)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads of torch inside the block: sums are split by threads, and so are their roundings."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_processes(job: EncodeJob, numbers: Sequence[int], processes: int, request: StopRequest) -> None:
    """Each takes the next shard when it has finished one. After a failure those in hand are finished, and no more."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_process) as pool:
        try:
            waiting = [pool.submit(_in_process, job, number) for number in numbers]
            remarks: dict[str, None] = {}
            for future in waiting:
                remarks |= dict.fromkeys(future.result())
                if request.signum:  # it came before there was a process that it could be passed on to
                    raise _stopped(job, request.signum)
        except BrokenProcessPool:
            if request.signum:  # it was passed on to the processes, which died of it
                raise _stopped(job, request.signum) from None
            have = len(shards_of(job.out))
            raise UserError(
                f"a process died with {have} of {job.plan.shards} shards made, perhaps for want of memory: take fewer "
                f"processes than {processes}, and --resume"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    for said in remarks:
        warnings.warn(said, Remark, stacklevel=2)


def _stopped(job: EncodeJob, signum: int) -> EncodeStopped:
    return EncodeStopped(len(shards_of(job.out)), job.plan.shards, signum)


def _start_process() -> None:
    """One thread; Ctrl-C is the first process's matter; and when that one is gone, so is this one."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this one was spawned
    parent.join()
    os._exit(1)


def _in_process(job: EncodeJob, number: int) -> list[str]:
    """Make one shard; what there was to remark."""
    with warnings.catch_warnings(record=True) as said:
        _work_of(job).shard(number)
    return [str(each.message) for each in said if issubclass(each.category, Remark)]


@lru_cache(maxsize=1)
def _work_of(job: EncodeJob) -> Work:
    """Loaded once in each process. A `UserError` where that is not what the first process found."""
    tokenizer = Tokenizer.load(Path(job.run), Registry.discover(job.plugins))
    inputs = Inputs.of(tokenizer.modality, job.inputs, "encode").with_augmented(tokenizer.modality, job.augment)
    if (tokenizer.code_fingerprint(), inputs.fingerprint()) != (job.plan.code_fingerprint, job.plan.data_fingerprint):
        raise UserError(
            f"the inputs or the run {job.run} changed while they were encoded: bring them back, and --resume"
        )
    return Work(job, tokenizer, inputs)
