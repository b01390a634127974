"""Promises that a plugin author can check with one call each. They raise AssertionError, naming the one that broke."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from vqmm.contracts.adversary import Adversary
from vqmm.contracts.batch import Batch, Codes
from vqmm.contracts.decoder import Decoder, grid_mask
from vqmm.contracts.evaluation import Evaluation
from vqmm.contracts.mixins import ManyPerFile, Strings
from vqmm.contracts.modality import Modality
from vqmm.contracts.prior import Prior
from vqmm.contracts.quantizer import Quantized, Quantizer
from vqmm.contracts.vocabulary import Range, Vocabulary
from vqmm.generation.sampling import sample
from vqmm.nn.network import call_masked
from vqmm.registry import Registry

__all__ = ["check_adversary", "check_decoder", "check_modality", "check_prior", "check_quantizer"]


def check_modality(modality: type[Modality] | Modality, dim: int = 8) -> None:
    """Every promise of a modality that needs no data: shapes, gradients, padding, files there and back."""
    modality = modality() if isinstance(modality, type) else modality
    name = modality.name
    assert modality.rank in (1, 2, 3), f"{name}: rank is {modality.rank!r}, must be 1, 2 or 3"
    assert len(modality.strides) == modality.rank, f"{name}: strides {modality.strides} for rank {modality.rank}"
    encoder, decoder = modality.build_encoder(dim), modality.build_decoder(dim)
    for count in (2, 1, 0):
        x = modality.example(count)
        assert x.shape[:2] == (count, modality.channels), f"{name}: example({count}) gave {tuple(x.shape)}"
        z = call_masked(encoder, x, None)
        grid = tuple(n // s for n, s in zip(x.shape[2:], modality.strides, strict=True))
        assert z.shape == (count, dim, *grid), f"{name}: encoder gave {tuple(z.shape)}, not {(count, dim, *grid)}"
        output = call_masked(decoder, z, None)
        target = modality.target(x)
        assert output.shape == target.shape, f"{name}: decoder gave {tuple(output.shape)}, target {tuple(target.shape)}"
        loss = modality.reconstruction_loss(output, target)
        assert loss.ndim == 0 and loss.isfinite(), f"{name}: reconstruction_loss gave {loss} for a batch of {count}"
        assert modality.postprocess(output).shape == x.shape, f"{name}: postprocess did not give back {tuple(x.shape)}"
        if count:
            (pull,) = torch.autograd.grad(loss, next(iter(encoder.parameters())), allow_unused=True)
            assert pull is not None and pull.abs().sum() > 0, f"{name}: the loss gives the encoder no gradient"
    _check_padding(modality, encoder)
    _check_variations(modality)
    _check_evaluation(modality)
    _check_front(modality)
    _check_files(modality)


def _check_padding(modality: Modality, encoder: torch.nn.Module) -> None:
    """A sample beside a longer one is told apart from its padding, and the loss does not look at padding."""
    longer = modality.example(1)[0]
    shorter = longer[(slice(None), *(slice(0, s) for s in modality.strides))]
    batch = modality.collate([shorter, longer], ["shorter", "longer"])
    assert len(batch) == 2 and batch.key == ("shorter", "longer"), f"{modality.name}: collate lost a sample or a key"
    sizes = [list(shorter.shape[1:]), list(longer.shape[1:])]
    if longer.shape != shorter.shape:
        assert batch.size.tolist() == sizes, f"{modality.name}: collate gave sizes {batch.size.tolist()}, not {sizes}"
    z = call_masked(encoder, batch.x, batch.mask)
    mask = grid_mask(batch, z)
    assert mask is None or mask[0].sum() == 1, f"{modality.name}: one stride of signal takes {mask[0].sum()} codes"
    target = modality.target(batch.x)
    if batch.mask is not None and target.is_floating_point():
        noise = torch.where(batch.mask.unsqueeze(1), 0, torch.randn_like(target))
        clean, noisy = (modality.reconstruction_loss(target + n, target, batch.mask) for n in (0, noise))
        assert clean == noisy, f"{modality.name}: reconstruction_loss looks at padding"


def _check_variations(modality: Modality) -> None:
    """`augment` draws from its generator alone, keeps what a sample is, and alters where `augments` says so."""
    sample, altered = modality.example(1)[0], False
    for seed in range(16):
        view, again = (modality.augment(sample, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(view, again), f"{modality.name}: augment gave two samples for one seed"
        kept = (view.shape[0], view.ndim, view.dtype) == (modality.channels, sample.ndim, sample.dtype)
        assert kept, f"{modality.name}: augment gave {view.dtype} {tuple(view.shape)}"
        altered |= not torch.equal(view, sample)
    assert altered == modality.augments, f"{modality.name}: augments is {modality.augments}, and augment says {altered}"


def _check_evaluation(modality: Modality) -> None:
    """`evaluation` gives an `Evaluation` whose metrics state their rules and whose units can be counted."""
    evaluation = modality.evaluation()
    assert isinstance(evaluation, Evaluation), f"{modality.name}: evaluation() gave {evaluation!r}"
    metrics = evaluation.metrics()
    for name, metric in metrics.items():
        assert metric.rule, f"{modality.name}: the metric {name} states no rule"
    assert evaluation.main_metric in metrics, f"{modality.name}: main_metric {evaluation.main_metric!r} is no metric"
    size = evaluation.size_in_units(modality.example(1)[0])
    assert size > 0, f"{modality.name}: size_in_units gave {size} {evaluation.rate_unit}s"


def _check_front(modality: Modality) -> None:
    """What a front saves, that of a new modality with the same options loads, to the same state."""
    front, other = modality.front(), type(modality)(modality.options).front()
    if front is None or other is None:
        assert front is other, f"{modality.name}: front() gave {front!r}, and {other!r} for the same options"
        return
    assert front is modality.front(), f"{modality.name}: front() gave two objects for one modality"
    with tempfile.TemporaryDirectory() as folder:
        front.save(Path(folder))
        other.load(Path(folder))
    assert other.state_bytes() == front.state_bytes(), f"{modality.name}: the front that was loaded is another"


def _check_files(modality: Modality) -> None:
    """What was written is read back; so are strings and samples of one file, where the modality has those."""
    original = modality.postprocess(modality.target(modality.example(1)))[0].detach()
    made = {}
    if isinstance(modality, Strings):
        made["ids_of"] = modality.ids_of("seven")
    if isinstance(modality, ManyPerFile):
        made["join"] = modality.join([original, original])
    for method, value in made.items():
        is_sample = value.ndim == modality.rank + 1 and len(value) == modality.channels
        assert is_sample, f"{modality.name}: {method} gave {tuple(value.shape)}, which is no sample"
    with tempfile.TemporaryDirectory() as folder:
        file = modality.write(original, Path(folder) / "one")
        assert file.exists() and file.parent == Path(folder), f"{modality.name}: write did not make {file}"
        samples = [*modality.samples(file)]
        assert len(samples) == 1, f"{modality.name}: a file with one sample is read as {len(samples)}"
        sample = samples[0]
        if isinstance(modality, ManyPerFile):
            name = modality.file_of(sample.key)
            assert name == file.name, f"{modality.name}: file_of({sample.key!r}) gave {name!r}, not {file.name!r}"
        again = modality.collate([sample.read()], ["one"]).x[0]
        box = tuple(slice(0, n) for n in original.shape)
        expected = modality.as_written(original)
        close = again.shape[0] == expected.shape[0] and torch.allclose(again[box].to(expected), expected, atol=1e-4)
        assert close, f"{modality.name}: what was written is not what is read back (as_written says what it should be)"


def check_quantizer(
    quantizer: type[Quantizer], options: Quantizer.Options | None = None, rank: int = 2, dim: int = 8
) -> None:
    """Every promise of a quantizer, on latents (B, dim, *grid) of that rank. `options` default to small ones."""
    torch.manual_seed(0)
    registry = Registry.discover()
    made = quantizer.build(options or small_options(quantizer, dim), rank, registry)
    dim = made.options.dim
    name = made.name
    for count in (3, 1, 0):
        z = torch.randn(count, dim, *(4, 6, 2)[:rank], requires_grad=True)
        made.train()
        if count == 3:
            made.initialise(z.detach())
        before = _state(made)
        output = made(z)
        _check_shapes(made, z, output)
        assert _same(before, _state(made)), f"{name}: the state dict changed in forward, before after_step"
        total = output.vectors.sum() + sum(output.losses.values())
        if count:
            (pull,) = torch.autograd.grad(total, z, retain_graph=True)
            assert pull.isfinite().all() and pull.abs().sum() > 0, f"{name}: no gradient reaches the encoder"
        made.after_step(lambda value: value, 0.5)
    _check_rest(made, rank, dim)
    _check_mask(made, rank, dim)
    other = quantizer.build(made.options, rank, registry)
    other.load_state_dict(made.state_dict())
    z = torch.randn(2, dim, *(4, 6, 2)[:rank])
    assert torch.equal(other.eval()(z).vectors, made.eval()(z).vectors), (
        f"{name}: the state dict does not hold everything"
    )


def _check_shapes(made: Quantizer, z: Tensor, output: Quantized) -> None:
    name = made.name
    assert output.vectors.shape == z.shape, f"{name}: vectors are {tuple(output.vectors.shape)}, z is {tuple(z.shape)}"
    for label, loss in output.losses.items():
        assert loss.ndim == 0 and loss.isfinite(), f"{name}: the loss {label!r} is {loss} for {tuple(z.shape)}"
    if output.codes is None:
        assert made.stages == 0 and made.codebook_size == 0, f"{name}: no codes, yet stages is {made.stages}"
        return
    codes: Codes = output.codes
    assert len(codes.maps) == len(made.sizes), f"{name}: {len(codes.maps)} maps, sizes lists {len(made.sizes)}"
    assert codes.maps[-1].shape == (len(z), made.stages, *z.shape[2:]), f"{name}: codes {tuple(codes.maps[-1].shape)}"
    for code_map, sizes in zip(codes.maps, made.sizes, strict=True):
        for stage, size in enumerate(sizes):
            ids = code_map[:, stage]
            assert not ids.is_floating_point(), f"{name}: codes are {ids.dtype}"
            assert ((ids >= 0) & (ids < size)).all(), f"{name}: a code of stage {stage} lies outside [0, {size})"
    if not (made.relaxed and made.training):
        assert torch.equal(made.lookup(codes), output.vectors), f"{name}: lookup(codes) is not the vectors, bit for bit"


def _check_rest(made: Quantizer, rank: int, dim: int) -> None:
    """In evaluation, and without gradients, nothing moves."""
    z = torch.randn(2, dim, *(4, 6, 2)[:rank])
    before = _state(made)
    made.eval()
    first = made(z)
    made.train()
    with torch.no_grad():
        made(z)
    made.eval()
    assert _same(before, _state(made)), f"{made.name}: the state dict changed in evaluation"
    assert torch.equal(first.vectors, made(z).vectors), f"{made.name}: evaluation gives two answers"
    if first.codes is not None:
        assert torch.equal(made.lookup(first.codes), first.vectors), f"{made.name}: lookup differs in evaluation"


def _check_mask(made: Quantizer, rank: int, dim: int) -> None:
    """What lies under padding changes no loss."""
    z = torch.randn(2, dim, *(4, 6, 2)[:rank])
    mask = torch.ones(2, *z.shape[2:], dtype=torch.bool)
    mask[1, 2:] = False
    made.eval()
    losses = made(z, mask).losses
    other = made(torch.where(mask.unsqueeze(1), z, 100.0), mask).losses
    for label in losses:
        assert torch.allclose(losses[label], other[label]), f"{made.name}: the loss {label!r} looks at padding"


def check_decoder(
    decoder: type[Decoder], modality: Modality, options: Decoder.Options | None = None, dim: int = 8
) -> None:
    """Every promise of a decoder: a loss with a gradient, samples of the right sizes, the same for the same seed."""
    torch.manual_seed(0)
    made = decoder(modality, dim, options)
    batch = _example_batch(modality)
    grid = [n // s for n, s in zip(batch.x.shape[2:], modality.strides, strict=True)]
    vectors = torch.randn(len(batch), dim, *grid, requires_grad=True)
    loss, output = made.loss(vectors, batch)
    assert loss.ndim == 0 and loss.isfinite(), f"{made.name}: the loss is {loss}"
    (pull,) = torch.autograd.grad(loss, vectors)
    assert pull.abs().sum() > 0, f"{made.name}: the loss gives the vectors no gradient"
    assert output is None or modality.postprocess(output).shape == batch.x.shape, (
        f"{made.name}: the output has another shape"
    )
    assert made.last_layer().ndim > 1, f"{made.name}: last_layer is no weight"
    made.eval()
    with torch.no_grad():
        samples, again = (made.sample(vectors.detach(), batch.size, seed=3) for _ in range(2))
    sizes = [tuple(sample.shape[1:]) for sample in samples]
    assert sizes == [tuple(size) for size in batch.size.tolist()], f"{made.name}: samples have the sizes {sizes}"
    assert all(map(torch.equal, samples, again)), f"{made.name}: one seed gives two answers"


def check_adversary(
    adversary: type[Adversary], modality: Modality, options: Adversary.Options | None = None, labels: int = 0
) -> None:
    """Every promise of a critic of that modality, told of so many classes: gradients, padding, what moves and when."""
    torch.manual_seed(0)
    made = adversary(modality, options, labels)
    name = made.name
    for count in (3, 1):
        target = modality.target(modality.example(count))
        output = torch.randn_like(target, dtype=torch.float32).requires_grad_()
        label = torch.arange(count) % labels if labels else None
        before = _state(made)
        terms = made.generator_losses(output, target, None, label)
        assert terms.keys() == made.weights.keys(), f"{name}: terms {[*terms]}, weights {[*made.weights]}"
        assert "adversarial" in terms and min(made.weights.values()) > 0, f"{name}: weights {dict(made.weights)}"
        for term, value in terms.items():
            assert value.ndim == 0 and value.isfinite(), f"{name}: the term {term!r} is {value}"
            (pull,) = torch.autograd.grad(value, output, retain_graph=True)
            reached = pull.flatten(1).abs().sum(dim=1)
            assert pull.isfinite().all() and (reached > 0).all(), f"{name}: {term!r} does not reach every output"
        made.zero_grad()
        lesson = made.critic_losses(output.detach(), target, None, label)
        torch.stack([*lesson.losses.values()]).sum().backward()
        idle = [
            which
            for which, weight in made.named_parameters()
            if weight.grad is None or (weight.ndim > 1 and not weight.grad.any())  # a last bias may shift both sides
        ]
        assert not idle, f"{name}: the losses of the critic give no gradient to {', '.join(idle)}"
        for side in (lesson.fake, lesson.real):
            assert side.shape == (count,) and not side.requires_grad, f"{name}: scores {tuple(side.shape)} for {count}"
        assert _same(before, _state(made)), f"{name}: the state dict changed in a forward, before after_step"
        made.after_step(float(lesson.fake.mean()), float(lesson.real.mean()))
    _check_judgement(made, modality, labels)
    other = adversary(modality, made.options, labels)
    other.load_state_dict(made.state_dict())
    x, label = modality.target(modality.example(2)).float(), torch.zeros(2, dtype=torch.int64) if labels else None
    assert torch.equal(other(x, label).each, made(x, label).each), f"{name}: the state dict does not hold everything"


def _check_judgement(made: Adversary, modality: Modality, labels: int) -> None:
    """Neither padding nor a sample's company changes what is said of it."""
    target = modality.target(modality.example(2)).float()
    output, label = torch.randn_like(target), torch.zeros(2, dtype=torch.int64) if labels else None
    mask = torch.ones(2, *target.shape[2:], dtype=torch.bool)
    mask[1, -1:] = False
    spoilt = torch.where(mask.unsqueeze(1), output, 7.0)
    with torch.no_grad():
        clean, dirty = (made.score(each, target, mask, label) for each in (output, spoilt))
        alone = made.score(output[:1], target[:1], mask[:1], None if label is None else label[:1])
    for score, other, single in zip(clean, dirty, alone, strict=True):
        assert torch.equal(score.each, other.each), f"{made.name}: the score looks at padding"
        assert torch.allclose(score.each[:1], single.each, atol=1e-4), f"{made.name}: a score depends on its batch"
    terms = [made.generator_losses(each, target, mask, label) for each in (output, spoilt)]
    for term in terms[0]:
        assert torch.equal(terms[0][term], terms[1][term]), f"{made.name}: the term {term!r} looks at padding"


def check_prior(prior: type[Prior], options: Prior.Options | None = None, vocabulary: Vocabulary | None = None) -> None:
    """Every promise of a prior, over a small vocabulary of a class number, a text, a sound and a picture of two maps,
    or over yours."""
    torch.manual_seed(0)
    vocabulary = vocabulary or (
        Vocabulary()
        .add("label", [[3]], grids=[[1]])
        .add("text", [[5]], longest=4)
        .add("sound", [[6, 7]], longest=3)
        .add("picture", [[3], [4, 4]], grids=[[1, 2], [2, 3]])
    )
    made = prior(vocabulary, vocabulary.longest, options).eval()
    ids = example_sequences(vocabulary, 3)
    places = made.grammar.places(ids)
    with torch.no_grad():
        features = made.features(ids, places)
        assert features.shape[:2] == ids.shape and features.isfinite().all(), f"{made.name}: {tuple(features.shape)}"
        assert torch.equal(features, made.features(ids, places)), f"{made.name}: evaluation gives two answers"
        _check_causal(made, ids, features)
        for length in (1, 3):
            state, steps = made.start(len(ids), ids.shape[1]), []
            for some, at in zip(ids.split(length, dim=1), places.split(length, dim=1), strict=True):
                steps.append(made.step(some, at, state))
            far = (made.score(torch.cat(steps, dim=1)) - made.score(features)).abs().max()
            assert far < 1e-4, f"{made.name}: steps of {length} ids give logits {far:.2g} away from the whole's"
    scored = made.train().loss(ids)
    assert scored.loss.ndim == 0 and scored.loss.isfinite(), f"{made.name}: the loss is {scored.loss}"
    scored.loss.backward()
    idle = [name for name, weight in made.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not idle, f"{made.name}: the loss gives no gradient to {', '.join(idle)}"
    other = prior(vocabulary, vocabulary.longest, made.options)
    other.load_state_dict(made.state_dict())
    with torch.no_grad():
        again = other.eval().features(ids, places)
    assert torch.equal(again, features), f"{made.name}: the state dict does not hold everything"
    for span in vocabulary.ranges:
        for block in sample(made, span.name, 2, seed=1):
            made.grammar.split(block)  # names what is not legal


def _check_causal(made: Prior, ids: Tensor, features: Tensor) -> None:
    """The features of a position stay, bit for bit, whatever comes after it."""
    for length in range(1, ids.shape[1]):
        other = ids.clone()
        other[:, length:] = ids.roll(1, dims=0)[:, length:]
        seen = made.features(other, made.grammar.places(other))
        assert torch.equal(seen[:, :length], features[:, :length]), (
            f"{made.name}: position {length - 1} sees a later id"
        )


def example_sequences(vocabulary: Vocabulary, count: int) -> Tensor:
    """int64 (count, longest): random codes for every modality, each time in another order, PAD after them."""
    lines = torch.zeros(count, vocabulary.longest, dtype=torch.int64)
    for line in lines:
        order = torch.randperm(len(vocabulary.ranges)).tolist()
        ids = torch.cat([_example_block(vocabulary.ranges[number]) for number in order])
        line[: len(ids)] = ids
    return lines


def _example_block(span: Range) -> Tensor:
    grids = span.grids or ((int(torch.randint(span.longest or 0, ())) + 1,),)
    maps = [
        torch.stack([torch.randint(size, grid) for size in stages])[None]
        for stages, grid in zip(span.sizes, grids, strict=True)
    ]
    return span.join(maps)[0]


def _example_batch(modality: Modality) -> Batch:
    return modality.collate(list(modality.example(2)), ["0", "1"])


def small_options(part: type[Quantizer], dim: int) -> Quantizer.Options:
    """The options of a quantizer with a small dimension, and a small codebook where it has one."""
    wanted = {"dim": dim, "codebook_size": 16}
    return part.Options(**{name: value for name, value in wanted.items() if name in part.Options.model_fields})


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
