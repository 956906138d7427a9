"""The working model: the copy of the host model that a stage trains.

The host, on the CPU, holds the best weights so far and is never trained. What a stage does to a model, it does to a copy: freezes
it, changes its memory format and its modules, compiles, wraps and shards it. The copy gives its weights back when they are better,
and goes at the end of the stage. Where the stage asks for an average of its weights, that is what is evaluated and given back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import broadcast
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hftl.models import family_of
from hftl.models.adapters import frozen_tensors, merged_tensors
from hftl.models.attention import use_fast_dropout_attention
from hftl.models.boundary import Boundary
from hftl.models.chain import Chain
from hftl.models.fast_training import use_fast_training
from hftl.models.recompute import recompute_layers
from hftl.recipe import ContrastiveLoss, Soup
from hftl.training.average import WeightAverage, WeightSoup, trained_tensors
from hftl.training.checkpoint import load_training_state
from hftl.training.experiment import Experiment, teacher_loss
from hftl.training.loss import Contrast, TeacherLoss
from hftl.training.machine import begin_scaling
from hftl.training.proof import GroupHashes, group_hashes, tensors_of
from hftl.training.resolved import ResolvedStage
from hftl.training.stage import Plateau, compile_layers, freeze, make_optimizer, make_schedule, shard_units, train_mode


@dataclass(frozen=True)
class Working:
    """A stage's model with its optimizer and schedule, as Accelerate has prepared them."""

    stage: ResolvedStage
    chain: Chain
    """The host's."""
    chain_of_copy: Chain
    """With adapters it has more groups."""
    accelerator: Accelerator
    bare: PreTrainedModel
    """The copy itself."""
    model: nn.Module
    """The copy as it is called: in its wrapper, where several processes train."""
    optimizer: AcceleratedOptimizer
    schedule: AcceleratedScheduler
    average: WeightAverage | None
    """None: the weights are evaluated as they are."""
    soup: WeightSoup | None
    """None: the end of the stage makes none of its epochs."""
    saving: RemovableHandle | None
    """Has either written into every checkpoint."""
    teacher: TeacherLoss | None
    """None: its rows have labels and no more."""
    contrast: Contrast | None
    """None: the loss looks at each example alone."""

    def train_mode(self) -> None:
        """Training mode for the groups that train, evaluation mode for the frozen ones."""
        train_mode(self.bare, self.chain_of_copy, self.stage.trains)

    def after_step(self, step: int) -> None:
        """Take the weights into their average; `step` is counted over the stage, from 1."""
        if self.average is not None:
            self.average.after_step(step)

    def after_epoch(self, value: float) -> bool:
        """Show the schedule what the validation metric has become, higher being better; whether it has lowered the rates."""
        schedule = self.schedule.scheduler
        if not isinstance(schedule, Plateau):
            return False
        before: float = schedule.share
        schedule.after_epoch(value)
        return bool(schedule.share < before)

    @contextmanager
    def to_evaluate(self) -> Iterator[None]:
        """The weights that the stage is judged by and may give back: their average, where it has one."""
        self.share_buffers()
        with nullcontext() if self.average is None else self.average.in_place():
            yield

    def share_buffers(self) -> None:
        """Under FSDP, give every process the buffers of the main one, which are saved; DDP sees to that itself."""
        if self.accelerator.is_fsdp2:
            for buffer in self.bare.buffers():
                broadcast(buffer)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer as the host would have it now; called by every process, and whole on the main one."""
        return self._as_in_host({**tensors_of(self.bare), **self.accelerator.get_state_dict(self.model)})

    def hashes_under_adapters(self) -> GroupHashes:
        """Of each layer group with adapters the hashes of its own weights; of a stage without, none."""
        if self.stage.adapters is None:
            return {}
        return group_hashes(frozen_tensors(tensors_of(self.bare)), self.chain, list(self.stage.adapters.modules))

    def _as_in_host(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors if self.stage.adapters is None else merged_tensors(self.bare, tensors)

    def give_weights_to(self, host: PreTrainedModel) -> None:
        """Copy the weights to the host model of every process."""
        weights = self.accelerator.get_state_dict(self.model)
        if weights:  # under FSDP only the main process holds the whole
            host.load_state_dict(self._as_in_host(weights))
        if self.accelerator.num_processes > 1:
            for tensor in host.state_dict().values():
                tensor.copy_(broadcast(tensor.to(self.accelerator.device)))

    def close(self) -> None:
        """Let Accelerate forget the copy, its optimizer and its schedule, and free their memory."""
        self.accelerator.free_memory(self.model, self.optimizer, self.schedule)
        if self.saving is not None:
            self.saving.remove()


def open_stage(experiment: Experiment, stage: ResolvedStage, accelerator: Accelerator, *, checkpoint: Path | None) -> Working:
    """A copy of the host model, ready for the first step of a stage, or for the next one after a `checkpoint` inside the stage."""
    recipe, chain = experiment.recipe, experiment.classifier.chain
    bare, chain_of_copy = stage.copy_of(experiment.classifier.model, chain)
    bare.to(accelerator.device)
    use_fast_dropout_attention(bare)
    if family_of(recipe.model.family).channels_last and not accelerator.is_fsdp2:  # it shards contiguous parameters only
        # Convolutions are 1.2 times as fast.
        bare.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # transformers' wrapper has lost the types
    freeze(bare, chain_of_copy, stage.trains)  # before wrapping: DDP fixes its set of parameters when it wraps
    if accelerator.num_processes == 1 and accelerator.device.type == "cpu":  # DDP waits for every gradient to come from autograd
        use_fast_training(bare)
    if recipe.run.gradient_checkpointing:
        recompute_layers(bare, chain)
    if recipe.run.compile:
        boundary = experiment.boundaries.get(stage.name)
        entry_module = boundary.entry_module if isinstance(boundary, Boundary) else None
        compile_layers(bare, chain, stage.trains, entry_module=entry_module)
    optimizer = make_optimizer(stage.optimizer, bare, stage.param_groups, lr=stage.lr, sharded=accelerator.is_fsdp2)
    schedule = make_schedule(optimizer, stage.schedule, steps=stage.steps, steps_per_epoch=stage.steps_per_epoch)
    if accelerator.is_fsdp2 and "FSDP_TRANSFORMER_CLS_TO_WRAP" not in os.environ:
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = shard_units(bare, chain)
    model, optimizer, schedule = accelerator.prepare(bare, optimizer, schedule)
    average = soup = saving = None
    tensors = trained_tensors(bare, chain_of_copy, stage.trains)
    if isinstance(stage.average, Soup):
        soup = WeightSoup(stage.average, tensors)
    elif stage.average is not None:
        average = WeightAverage(stage.average, tensors, epochs=stage.epochs, steps_per_epoch=stage.steps_per_epoch)
    if (mean := average or soup) is not None and accelerator.is_main_process:
        saving = accelerator.register_save_state_pre_hook(lambda models, weights, folder: mean.save(Path(folder)))
    if checkpoint is None:
        begin_scaling(accelerator)
    else:
        load_training_state(checkpoint, accelerator)
        if mean is not None:
            mean.load(checkpoint)
    teacher = teacher_loss(experiment, accelerator)
    loss, contrast = stage.loss, None
    if isinstance(loss, ContrastiveLoss):
        contrast = Contrast(bare.get_submodule(experiment.output_layer), loss)
    return Working(
        stage, chain, chain_of_copy, accelerator, bare, model, optimizer, schedule, average, soup, saving, teacher, contrast
    )
