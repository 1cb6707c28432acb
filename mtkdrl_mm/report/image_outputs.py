# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Runs the networks of a training on some of its images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import HOOKS, init_default_scope
from torch import Tensor

from mtkdrl_mm.engine.build_dataloader import build_dataloader, seeded_dataloader
from mtkdrl_mm.engine.build_distiller import build_distiller
from mtkdrl_mm.engine.hooks import AgentHook
from mtkdrl_mm.engine.resume_checks import load_whole
from mtkdrl_mm.engine.run_record import RunRecord
from mtkdrl_mm.engine.seeded_views import seeded_parts
from mtkdrl_mm.engine.teacher_outputs import connect_teacher_outputs
from mtkdrl_mm.models import MTKDRL, MultiTeacherDistiller, TeacherPool
from mtkdrl_mm.models.labels import hard_labels
from mtkdrl_mm.models.teachers.preprocessing import Preprocessing
from mtkdrl_mm.structures import StepTerms, TeacherWeights
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.class_names import class_names
from mtkdrl_mm.utils.hook_configs import find_hook
from mtkdrl_mm.weights.checkpoint import read_checkpoint

#: Sees what is run, how many images of it are done, and of how many.
Progress = Callable[[str, int, int], None]


@dataclass
class ImageOutputs:
    """Outputs of student and teachers on N images, with C classes and M teachers.

    Attributes:
        names (tuple[str, ...]): The teachers.
        source (str): What the images are, for a sentence: "validation images".
        labels (Tensor): Their labels as distributions, shape (N, C).
        blended (bool): Whether mixup or cutmix has blended images.
        training (bool): Whether the student was trained on the images, with
            these labels, which may be wrong.
        student_logits (Tensor): Shape (N, C).
        teacher_logits (Tensor): Shape (N, M, C).
        logit_weights (Tensor, optional): The weights that the next training
            step would give, shape (N, M); None if they were not computed.
        feature_weights (Tensor, optional): Likewise; None also without feature
            loss.
        images (list[np.ndarray]): The images as RGB of shape (H, W, 3), uint8;
            empty if they were not kept.
    """

    names: tuple[str, ...]
    source: str
    labels: Tensor
    blended: bool
    training: bool
    student_logits: Tensor
    teacher_logits: Tensor
    logit_weights: Tensor | None = None
    feature_weights: Tensor | None = None
    images: list[np.ndarray] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.student_logits)


@dataclass
class TrainedNetworks:
    """The networks of a training, with the weights of a checkpoint.

    Attributes:
        model (MultiTeacherDistiller): In eval mode, on its device.
        config (Config): The config of the training.
        seed (int): Its seed.
        epoch (int): Number of epochs that the checkpoint has seen.
        class_names (list[str], optional): Class names in the checkpoint.
    """

    model: MultiTeacherDistiller
    config: Config
    seed: int
    epoch: int
    class_names: list[str] | None

    @property
    def has_teacher_networks(self) -> bool:
        """Whether the teachers can be run on any image; else their outputs are read."""
        return isinstance(self.model.teachers, TeacherPool)


def load_networks(config: Config, checkpoint: str, extra_losses: bool = False) -> TrainedNetworks:
    """Build the networks of a training and load the weights that it goes on with.

    Teachers whose outputs the training read from a store are not built. With an
    ``EMAHook`` these are the trained weights, and not their average, which is what is
    validated.

    Args:
        config (Config): The config of a distillation, with checked data.
        checkpoint (str): A checkpoint of the training.
        extra_losses (bool): See :func:`build_distiller`. Defaults to False.

    Returns:
        TrainedNetworks: The networks.

    Raises:
        InputError: If the model is no distiller, a file is missing or does not
            fit, or the store cannot be read.
    """
    init_default_scope(config.get('default_scope', 'mmpretrain'))
    contents = read_checkpoint(checkpoint, 'checkpoint')
    state, meta = contents.get('state_dict'), contents.get('meta') or {}
    if not isinstance(state, dict):
        raise InputError(f'Checkpoint: "{checkpoint}" is no training checkpoint of mmengine.')
    model = build_distiller(config, read_stored_outputs=True, extra_losses=extra_losses)
    if not extra_losses:
        state = {key: value for key, value in state.items() if not key.startswith('extra_losses.')}
    advice = 'Its config is another one, or it was written by another version of this package.'
    load_whole(model, _trained(state, contents.get('ema_state_dict')), checkpoint, advice)
    model.teachers.load_weights()
    model.weighting.attach_trainer()  # what trains it has done so
    if isinstance(model.weighting, MTKDRL):
        model.weighting.warming_up = _warms_up(config, meta)
    model.to(get_device()).eval()
    return TrainedNetworks(
        model=model,
        config=config,
        seed=int(meta.get('seed') or 0),
        epoch=int(meta.get('epoch', 0)),
        class_names=class_names(meta.get('dataset_meta')),
    )


def _trained(state: dict[str, Any], other: Any) -> dict[str, Any]:
    """The trained weights, which ``EMAHook`` saves in place of their average."""
    other = other if isinstance(other, dict) else {}
    return {key: other.get(f'module.{key}', value) for key, value in state.items()}


def _warms_up(config: Config, meta: dict[str, Any]) -> bool:
    """Whether the step after a checkpoint has equal weights."""
    # A subclass of AgentHook is found by its usual key.
    own = (config.get('default_hooks') or {}).get('agent')
    cfg = find_hook(config, 'AgentHook') or own
    if not isinstance(cfg, dict):
        return True
    hook = HOOKS.build(cfg)
    if not isinstance(hook, AgentHook):
        return False
    if hook.warmup_iters is not None:
        return bool(meta.get('iter', 0) < hook.warmup_iters)
    return bool(meta.get('epoch', 0) < hook.warmup_epochs)


def run_training_images(
    networks: TrainedNetworks, count: int, progress: Progress | None = None
) -> ImageOutputs:
    """Run student, teachers and weighting on training images, augmented as in training.

    The images are the first ones of the epoch after the checkpoint. The student
    runs in eval mode.

    Args:
        networks (TrainedNetworks): The networks.
        count (int): Greatest number of images.
        progress (Callable, optional): See :data:`Progress`. Defaults to None.

    Returns:
        ImageOutputs: With weights and images.

    Raises:
        InputError: If data or stored outputs are unusable.
    """
    model = networks.model
    loader = build_dataloader(
        seeded_dataloader(networks.config.train_dataloader), networks.seed, model=model
    )
    seeded_parts(loader)[1].set_position(networks.seed, networks.epoch)
    if not networks.has_teacher_networks:
        connect_teacher_outputs(model, loader)
    steps: list[tuple[StepTerms, TeacherWeights]] = []
    handle = model.register_step_hook(lambda terms, weights: steps.append((terms, weights)))
    found = _Collector()
    total = min(count, len(loader.dataset))  # type: ignore[arg-type]
    try:
        for inputs, samples in _batches(model, loader, total, 'training', progress):
            steps.clear()
            # With gradient: some strategies weigh teachers by gradients.
            model(inputs, samples, mode='loss')
            ((terms, weights),) = steps
            found.add(
                labels=terms.soft_data_labels,
                student=terms.student_logits,
                teachers=terms.teacher_logits,
                logit=weights.logit,
                feature=weights.feature,
            )
            found.blended |= any('gt_score' in sample for sample in samples)
            found.images += _to_rgb(model, inputs)
    finally:
        handle.remove()
    source = f'training images, augmented as in epoch {networks.epoch + 1}'
    result = found.result(model, source, training=True)
    if model.connectors is None:
        result.feature_weights = None
    return result


@torch.no_grad()
def run_validation_images(
    networks: TrainedNetworks, count: int, progress: Progress | None = None
) -> ImageOutputs:
    """Run student and teachers on validation images, in random order.

    Args:
        networks (TrainedNetworks): Networks, with those of the teachers.
        count (int): Greatest number of images.
        progress (Callable, optional): See :data:`Progress`. Defaults to None.

    Returns:
        ImageOutputs: Without weights and images.

    Raises:
        InputError: If there is no validation data, or it is unusable.
    """
    config, model = networks.config, networks.model
    if not config.get('val_dataloader'):
        raise InputError('The config has no `val_dataloader`.')
    settings = config.val_dataloader
    settings.sampler = dict(type='DefaultSampler', shuffle=True)
    settings.pop('batch_sampler', None)
    loader = build_dataloader(settings, networks.seed)
    found = _Collector()
    total = min(count, len(loader.dataset))  # type: ignore[arg-type]
    for inputs, samples in _batches(model, loader, total, 'validation', progress):
        labels = hard_labels(samples).to(inputs.device)
        teachers = [output.logits for output in model.live_teachers(inputs)]
        student = model(inputs, samples, mode='tensor')
        if int(labels.max()) >= student.shape[1]:
            raise InputError(
                f'The validation data has the label {int(labels.max())}, but the student has '
                f'{student.shape[1]} classes.'
            )
        found.add(
            labels=torch.nn.functional.one_hot(labels, student.shape[1]),
            student=student,
            teachers=torch.stack(teachers, dim=1),
        )
    return found.result(model, 'validation images', training=False)


def _batches(
    model: MultiTeacherDistiller,
    loader: Iterable[Any],
    total: int,
    what: str,
    progress: Progress | None,
) -> Iterator[tuple[Tensor, list[Any]]]:
    """Yield preprocessed batches until there are ``total`` images."""
    done = 0
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        kept = total - done
        inputs, samples = model.format_inputs(data['inputs'])[:kept], data['data_samples'][:kept]
        yield inputs, samples
        done += len(samples)
        if progress is not None:
            progress(what, done, total)
        if done >= total:
            return


def _to_rgb(model: MultiTeacherDistiller, inputs: Tensor) -> list[np.ndarray]:
    """The images before normalisation."""
    raw = Preprocessing(to_rgb=True).convert(inputs.float(), model.student_preprocessing)
    pixels = raw.round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


class _Collector:
    """Joins the outputs of batches."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.images: list[np.ndarray] = []
        self.blended = False

    def add(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.parts.setdefault(name, []).append(tensor.detach().float().cpu())

    def result(self, model: MultiTeacherDistiller, source: str, training: bool) -> ImageOutputs:
        joined = {name: torch.cat(parts) for name, parts in self.parts.items()}
        if not joined:
            raise InputError('The data set holds no image.')
        return ImageOutputs(
            names=tuple(model.teachers.names),
            source=source,
            labels=joined['labels'],
            blended=self.blended,
            training=training,
            student_logits=joined['student'],
            teacher_logits=joined['teachers'],
            logit_weights=joined.get('logit'),
            feature_weights=joined.get('feature'),
            images=self.images,
        )


@dataclass
class FoundImages:
    """What :func:`look_at_images` found.

    Attributes:
        weighted (ImageOutputs | str): Training images with weights, or the
            reason why there are none.
        evaluated (ImageOutputs | str): Images for accuracy, calibration and
            agreement, or the reason: validation images, which no network was
            trained on; the training images where the teachers' outputs on them
            are all there is.
        class_names (list[str], optional): Class names in the checkpoint.
    """

    weighted: ImageOutputs | str
    evaluated: ImageOutputs | str
    class_names: list[str] | None = None


def look_at_images(
    record: RunRecord,
    read_config: Callable[[str], Config],
    count: int,
    progress: Progress | None = None,
) -> FoundImages:
    """Run the networks of a training on some images, as far as they are there.

    Args:
        record (RunRecord): The training.
        read_config (Callable): Reads a config file and checks its data.
        count (int): Greatest number of training, and of validation images.
        progress (Callable, optional): See :data:`Progress`. Defaults to None.

    Returns:
        FoundImages: The outputs; reasons in place of those that a missing file
        or another error of input prevents.
    """
    try:
        networks = _find_networks(record, read_config)
    except InputError as error:
        return FoundImages(str(error), str(error))
    weighted = _outputs_or_reason(run_training_images, networks, count, progress)
    evaluated = weighted
    if networks.has_teacher_networks:
        evaluated = _outputs_or_reason(run_validation_images, networks, count, progress)
    return FoundImages(weighted, evaluated, networks.class_names)


def _find_networks(record: RunRecord, read_config: Callable[[str], Config]) -> TrainedNetworks:
    model = record.config.get('model')
    if record.config and not (isinstance(model, dict) and model.get('teachers')):
        raise InputError('This training has no teachers.')
    if record.checkpoint is None:
        raise InputError('There is no checkpoint so far.')
    if record.config_path is None:
        raise InputError(record.config_problem)
    return load_networks(read_config(record.config_path), record.checkpoint)


def _outputs_or_reason(
    run: Callable[[TrainedNetworks, int, Progress | None], ImageOutputs],
    networks: TrainedNetworks,
    count: int,
    progress: Progress | None,
) -> ImageOutputs | str:
    try:
        return run(networks, count, progress)
    except InputError as error:
        return str(error)
