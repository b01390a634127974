"""The critic's part of a training step. Knows an adversary, tensors and names; no modality."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vqmm.contracts.adversary import Adversary
from vqmm.contracts.batch import Batch
from vqmm.recipe import Train
from vqmm.tokenizer.model import Model, Output
from vqmm.training.balance import Balance
from vqmm.training.base_loop import descend
from vqmm.training.checkpoint import load_optimizer_state, optimizer_state, prefixed, unprefixed
from vqmm.training.critic_schedule import CriticSchedule
from vqmm.training.health import Event
from vqmm.utils.errors import UserError
from vqmm.utils.files import hash_tensors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BETAS = (0.5, 0.9)  # of the critic's Adam, as in Gulrajani et al. 2017: a critic chases a target that moves


class CriticStep(nn.Module):
    """A critic's learning from one batch in plain containers, which is what Fabric and its strategies look into."""

    def __init__(self, adversary: Adversary):
        super().__init__()
        self.adversary = adversary

    def forward(self, fields: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Arguments of `critic_losses` -> {"losses": named scalars, "scores": {"fake", "real"}, (B,) each}.

        No fields (a process whose batch was empty): a zero that depends on every weight.
        """
        if not fields:
            nothing = torch.stack([p.sum() for p in self.adversary.parameters()]).sum() * 0
            return {"losses": {"nothing": nothing}, "scores": {}}
        lesson = self.adversary.critic_losses(**fields)
        return {"losses": lesson.losses, "scores": {"fake": lesson.fake, "real": lesson.real}}


class GivenGradient(torch.autograd.Function):
    """A scalar of a known value whose gradient at `output` is known too: what was computed once is not done again."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """The scalar `value`, connected to `output` in the graph. `gradient` has the shape of `output`."""
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor, None, None]:
        """The given gradient times the scalar `pull`, for `output`; none for the other two arguments."""
        return ctx.saved_tensors[0] * pull, None, None


@dataclass
class Heard:
    """What a contest gathers over the batches of one optimizer step."""

    sums: dict[str, float | Tensor] = field(default_factory=dict)

    def add(self, values: Mapping[str, Tensor], share: float) -> None:
        """Add the scalars of a batch, detached and in float64, times `share`: its part of the step's samples."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * share

    def joined(
        self, names: Sequence[str], reduce: Callable[[Tensor], Tensor], device: torch.device
    ) -> dict[str, float]:
        """The sums over all processes, in one reduction; 0 for what was not met."""
        local_sums = [torch.as_tensor(self.sums.get(name, 0.0), dtype=torch.float64, device=device) for name in names]
        return dict(zip(names, reduce(torch.stack(local_sums)).tolist(), strict=True))


class AdversarialTrainer:
    """One critic beside one model: its terms in the model's loss, its own optimizer, its course.

    In the model's step the critic is frozen; its terms' gradients at the decoder's output are computed once,
    measured, scaled and passed on. In its own it reads the same output, detached, and the target in one forward pass.
    While the critic does not watch (see `CriticSchedule`) nothing of this happens.
    """

    def __init__(
        self, adversary: Adversary, model: Model, plan: Train, fabric: "Fabric", higher_is_better: bool = True
    ):
        check_fits(adversary, model)
        self.adversary, self.model, self.plan, self.fabric = adversary, model, plan, fabric
        options = adversary.options
        self.inner = CriticStep(adversary)
        optimizer = torch.optim.AdamW(
            adversary.parameters(), lr=options.learning_rate, betas=BETAS, weight_decay=0.0, fused=True
        )
        self.wrapped, self.optimizer = fabric.setup(self.inner, optimizer)
        self.schedule = CriticSchedule(options, plan.steps, higher_is_better)
        self.balance = Balance(adversary.weights, options.balance, options.memory)
        self.step = 0
        self.gradient_norm = 0.0
        self._norms: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}
        self._heard = Heard()

    @property
    def watches(self) -> bool:
        """Whether the critic sees anything in the current step."""
        return self.schedule.watches(self.step)

    # In the model's forward pass

    def joined(self, forward: Output, batch: Batch) -> dict[str, Tensor]:
        """The losses of a forward pass, the critic's terms among them where it counts."""
        self._norms, self._seen = {}, {}
        if not self.watches:
            return forward.losses
        output = forward.output
        if output is None:
            raise UserError(f"adversary: the decoder {self.model.decoder.name!r} gave no output for it: take direct")
        label = batch.label if self.adversary.labels else None
        critic_inputs = {
            "target": self.model.modality.target(batch.target_or_x),
            "mask": batch.mask,
            "label": label,
        }
        given = {name: value for name, value in critic_inputs.items() if value is not None}
        self._seen = {"output": output.detach(), **given}
        reconstruction = self.model.reconstruction_loss
        if reconstruction is not None:
            self._norms["loss"] = forward.losses[reconstruction].detach()
        if not self.schedule.counts(self.step):
            return forward.losses
        leaf = output.detach().requires_grad_()
        with frozen(self.adversary):
            terms = self.adversary.generator_losses(leaf, **given)
        pulls = {name: torch.autograd.grad(term, leaf, retain_graph=True)[0] for name, term in terms.items()}
        losses = dict(forward.losses)
        if self.balance.kind != "fixed":
            (reference,) = torch.autograd.grad(losses["reconstruction"], output)
            losses["reconstruction"] = GivenGradient.apply(output, reference, losses["reconstruction"].detach())
            self._norms |= {name: self._norm(output, pull) for name, pull in {"reference": reference, **pulls}.items()}
        for name, factor in self.factors().items():
            losses[name] = GivenGradient.apply(output, pulls[name] * factor, terms[name].detach().float() * factor)
        return losses

    def factors(self) -> dict[str, float]:
        """What each term is multiplied by in this step."""
        return {name: factor * self.schedule.loss_scale for name, factor in self.balance.factors().items()}

    def _norm(self, output: Tensor, pull: Tensor) -> Tensor:
        """The length of a gradient at the output: there (the mean over samples), or at the decoder's last layer."""
        if self.balance.kind == "gradient":
            return pull.float().flatten(1).norm(dim=1).mean() * len(pull)  # of a mean over samples, each has its share
        last = self.model.decoder.last_layer()
        return torch.autograd.grad(output, last, pull, retain_graph=True)[0].float().norm()

    # After it

    def learn(self, share: float, more: bool) -> None:
        """From the batch of the last forward pass; `share`: its part in the samples of the step; `more` will follow."""
        if not self.watches:
            return
        if self.schedule.learns(self.step):
            with self.fabric.no_backward_sync(self.wrapped, enabled=more):
                output = self.wrapped(self._seen)
                total = torch.stack([*output["losses"].values()]).sum()
                self.fabric.backward(total * share * self.fabric.world_size)
            scores = output["scores"]
        else:
            scores = self._scores()
        if self._seen:
            low, high = scores["fake"].float(), scores["real"].float()
            right = (low < self.schedule.threshold).float().mean() + (high > self.schedule.threshold).float().mean()
            self._heard.add({**self._norms, "fake": low.mean(), "real": high.mean(), "right": right / 2}, share)
        self._norms, self._seen = {}, {}

    @torch.no_grad()
    def _scores(self) -> dict[str, Tensor]:
        """Of a critic at rest."""
        if not self._seen:
            return {}
        with self.fabric.autocast():
            fake, real = self.adversary.score(**self._seen)
        return {"fake": fake.each, "real": real.each}

    def finish(self, factor: float, reduce: Callable[[Tensor], Tensor]) -> list[Event]:
        """The end of an optimizer step: the critic's own, at `factor` times its learning rate; what all have seen."""
        if not self.watches:
            self.step += 1
            return []
        learns, counts = self.schedule.learns(self.step), self.schedule.counts(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.adversary.options.learning_rate * factor
        if learns:
            self._descend()
        names = ["fake", "real", "right", "loss", "reference", *self.balance.weights]
        heard = self._heard.joined(names, reduce, self.fabric.device)
        self._heard = Heard()
        if learns:
            self.adversary.after_step(heard["fake"], heard["real"])
        if counts and self.balance.kind != "fixed":
            self.balance.update(heard["reference"], {name: heard[name] for name in self.balance.weights})
        loss = None if self.model.reconstruction_loss is None else heard["loss"]
        events = self.schedule.update(self.step, heard["fake"], heard["real"], heard["right"], loss)
        self.step += 1
        return events

    def _descend(self) -> None:
        not_finite = (
            f"the critic's gradient at step {self.step} is not finite: lower adversary.learning_rate (it is "
            f"{self.adversary.options.learning_rate:g}) or take adversary.spectral_norm=true; what was saved before is "
            "good"
        )
        self.gradient_norm = float(descend(self.fabric, self.wrapped, self.optimizer, self.plan.clip, not_finite))

    def figures(self) -> dict[str, float]:
        """How the contest stands, for people: margin, share told apart, gradient norms, the terms' factors."""
        if not self.schedule.watches(self.step - 1):
            return {}
        schedule, norms = self.schedule, self.balance.norms
        metrics = {
            "margin": schedule.margin,
            "critic_accuracy": schedule.right.value or 0.0,
            "gradient_norm": self.gradient_norm,
        }
        if schedule.counts(self.step - 1):
            metrics |= {"loss_scale": schedule.loss_scale, "reconstruction_worse": schedule.worse}
            metrics |= {f"weight/{name}": factor for name, factor in self.factors().items()}
            measured = {"reconstruction": self.balance.reference, **norms}
            metrics |= {f"norm/{name}": each.value for name, each in measured.items() if each.value is not None}
        return metrics

    def fingerprint(self) -> str:
        """16 hex digits for the critic's weights."""
        digest = hashlib.sha256()
        hash_tensors(digest, self.adversary.state_dict())
        return digest.hexdigest()[:16]

    # To a checkpoint and back

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that decides the steps to come."""
        numbers = {
            "balance": self.balance.state_dict(),
            "schedule": self.schedule.state_dict(),
            "norm": [self.gradient_norm],
        }
        state = {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}
        state |= prefixed("weights.", self.adversary.state_dict())
        return prefixed("critic.", state | optimizer_state(self.optimizer))

    def load_state_dict(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on after `step`, as if there had been no stop."""
        state = unprefixed("critic.", tensors)
        self.adversary.load_state_dict(unprefixed("weights.", state))
        load_optimizer_state(self.optimizer, state)
        self.balance.load_state_dict(state["balance"].tolist())
        self.schedule.load_state_dict(state["schedule"].tolist())
        (self.gradient_norm,) = state["norm"].tolist()
        self.step = step


def check_fits(adversary: Adversary, model: Model) -> None:
    """A `UserError` for a critic that has no output to look at, or options that a model leaves without a meaning."""
    decoder = model.decoder
    if decoder.likelihood or decoder.discrete_input:
        why = "is a distribution and gives no output" if decoder.likelihood else "gives ids back as they are"
        raise UserError(f"adversary: the decoder {decoder.name!r} {why}: take decoder.name=direct or adversary=null")
    model.check_critic(adversary)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for a module's weights inside the block."""
    learning = [p for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def said_of(figures: Mapping[str, float]) -> str:
    """A critic's figures as one line: the health line.

    >>> said_of({"margin": 0.5, "critic_accuracy": 0.75})
    'margin 0.5  critic_accuracy 0.75'
    """
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
