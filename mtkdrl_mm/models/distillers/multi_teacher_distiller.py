# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The model of a distillation run."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from mmengine.model import BaseModel, ModuleDict
from mmpretrain.models.losses import LabelSmoothLoss
from mmpretrain.models.utils import RandomBatchAugment
from torch import Tensor, nn
from torch.amp.autocast_mode import autocast
from torch.utils.hooks import RemovableHandle

from mtkdrl_mm.registry import MODELS
from mtkdrl_mm.structures import NetworkOutput, Projection, StepTerms, TeacherWeights
from mtkdrl_mm.structures.step_terms import check_shape
from mtkdrl_mm.structures.teacher_weights import check_weights
from mtkdrl_mm.teacher_outputs import TeacherOutputsSettings, TeacherRecord
from mtkdrl_mm.utils import InputError, build_component, check_flag, check_number
from mtkdrl_mm.utils.literal_config import plain_config

from ..build_classifier import build_classifier, read_network_config
from ..build_preprocessor import build_preprocessor, take_preprocessor
from ..classifier_output import check_classifier, run_classifier
from ..connectors import build_connectors, target_channels
from ..head_loss import check_head_loss
from ..infer_output import infer_output, input_channels
from ..labels import target_labels
from ..losses import DistillationLoss
from ..memory_format import check_trainable_in_channels_last
from ..num_classes import set_num_classes
from ..teachers import Preprocessing, StoredTeacherPool, TeacherPool, build_pool
from ..teachers.build_teacher import TeacherConfig
from ..teachers.inference_mode import InferenceSettings
from ..teachers.preprocessing import check_input_size
from ..teachers.teacher_pool import read_teacher_configs
from ..teachers.teacher_record import teacher_record
from ..weightings import Weighting

StepHook = Callable[[StepTerms, TeacherWeights], None]

# What a checkpoint holds besides the student.
_TRAINING_PARTS = ('connectors', 'weighting', 'logit_loss', 'feature_loss', 'extra_losses')
# The terms of every training, as `loss_*` in the log.
_TERMS = ('ce', 'logit', 'feature')
# Steps from one look at the weights' values to the next: reading a number waits for the device.
_CHECK_INTERVAL = 50


@MODELS.register_module()
class MultiTeacherDistiller(BaseModel):
    r"""Student distilled from a pool of frozen teachers.

    .. math::
        L = \mathrm{mean}_i \Big[ CE_i + \alpha \sum_m wl_i^m KL_i^m
            + \beta \sum_m wf_i^m D_i^m \Big]

    Source: arXiv:2502.18510, section "Student loss".

    In ``predict`` and ``tensor`` mode it is the student. Checkpoints hold
    student, connectors and weighting strategy under ``student.``,
    ``connectors.`` and ``weighting.``, what losses have learned under
    ``feature_loss.``, and no teacher. ``student_cfg`` is the
    student's whole config as plain data, ``model`` and ``data_preprocessor``:
    saved beside the weights, it spares a reader the files that ``student``
    names.

    Args:
        student (dict): The student: ``cfg_path`` (and ``cfg_options``) or an
            inline mmpretrain classifier with a ``type``. ``input_size`` beside
            them is the side, or height and width, of the images that the data
            pipeline yields; only networks need it that run at no common size.
        teachers (Sequence[dict] | TeacherPool, optional): The pool, or its
            configs, see :func:`build_pool`.
            None builds the student alone, which is all that testing needs; it
            cannot be trained. Defaults to None.
        weighting (dict): The weighting strategy. Defaults to
            ``dict(type='AVER')``.
        logit_loss (dict): Loss on the logits. Defaults to
            ``dict(type='KLDivergence', temperature=4.0)``.
        feature_loss (dict): Loss on the features. Defaults to
            ``dict(type='FeatureMSE')``.
        extra_losses (Sequence[dict]): Losses on top, each with its own
            ``loss_weight``, weighed over the teachers as the logit or the
            feature term is (``DIST``, ``NormDirection``). Defaults to none.
        connector (dict, optional): Arguments of the connectors, and their
            ``type`` if it is not to be chosen by what student and teacher
            offer: maps where both have one, else embeddings, whose connectors
            ignore ``norm_cfg`` and ``act_cfg``. Defaults to None.
        logit_loss_weight (float): alpha >= 0. Defaults to 1.
        feature_loss_weight (float): beta >= 0; with 0 there are no connectors.
            Defaults to 5.
        num_classes (int, optional): Number of classes to set in the student
            and in every teacher given by ``cfg_path``, wherever they depend on
            it. Defaults to None, which keeps those of the configs.
        token_maps (bool): Whether the patch tokens of transformers, student and
            teachers, count as their maps. Defaults to False: of transformers,
            embeddings are compared.
        channels_last (bool, optional): Whether networks run in channels_last
            memory format in training. Defaults to None: on CUDA devices, where
            it is faster.
        teacher_inference (dict | str, optional): How the teachers are run,
            which are frozen: 'eager' as they were loaded, or the settings of
            :class:`InferenceSettings`, ``dict(fold_bn='auto',
            channels_last='auto', dtype='auto', compile=False,
            offload=False)``. Defaults to None: those, or the settings of a
            given pool.
        teacher_outputs (str | dict, optional): A store of the teachers'
            outputs, which are then read and not computed: its folder, or the
            settings of :class:`TeacherOutputsSettings`. It has no effect
            without ``teachers``. Defaults to None: the teachers run in every
            step.
        data_preprocessor (dict, optional): The student's preprocessing;
            mmengine's runner fills in the config file's. Defaults to the
            student config's.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        InputError: If a config is unusable, a number is out of range, or
            student and teachers have different numbers of classes.

    Example:
        >>> import torch
        >>> from mmpretrain.structures import DataSample
        >>> from mtkdrl_mm.models import MultiTeacherDistiller
        >>> resnet18 = dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py')
        >>> resnet34 = dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py')
        >>> distiller = MultiTeacherDistiller(
        ...     student=resnet18,
        ...     teachers=[dict(resnet34, checkpoint='resnet34.pth'), dict(resnet18, name='small')],
        ...     weighting=dict(type='AVER'),
        ...     num_classes=10,
        ... )
        >>> inputs = torch.rand(2, 3, 64, 64)
        >>> samples = [DataSample().set_gt_label(label) for label in (3, 7)]
        >>> sorted(distiller(inputs, samples, mode='loss'))
        ['loss_ce', 'loss_feature', 'loss_logit']
        >>> distiller(inputs, samples, mode='tensor').shape
        torch.Size([2, 10])
        >>> distiller.teachers.names
        ('resnet34_8xb32_in1k', 'small')
    """

    def __init__(
        self,
        student: dict[str, Any],
        teachers: Sequence[dict[str, Any]] | TeacherPool | None = None,
        weighting: dict[str, Any] | str = 'AVER',
        logit_loss: dict[str, Any] | str = 'KLDivergence',
        feature_loss: dict[str, Any] | str = 'FeatureMSE',
        extra_losses: Sequence[dict[str, Any]] = (),
        connector: dict[str, Any] | None = None,
        logit_loss_weight: float = 1.0,
        feature_loss_weight: float = 5.0,
        num_classes: int | None = None,
        token_maps: bool = False,
        channels_last: bool | None = None,
        teacher_inference: dict[str, Any] | str | None = None,
        teacher_outputs: dict[str, Any] | str | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if num_classes is not None:
            check_number('num_classes', num_classes, minimum=1)
        check_flag('token_maps', token_maps)
        if channels_last is not None:
            check_flag('channels_last', channels_last)
        model, file_preprocessor = read_network_config(student, 'student')
        preprocessor_cfg = dict(
            take_preprocessor(data_preprocessor, model, file_preprocessor) or {}
        )
        super().__init__(build_preprocessor(preprocessor_cfg, model, num_classes), init_cfg)
        self.student_cfg = _plain_student(model, preprocessor_cfg, num_classes)
        self.logit_loss_weight = check_number('logit_loss_weight', logit_loss_weight)
        self.feature_loss_weight = check_number('feature_loss_weight', feature_loss_weight)
        self.token_maps = token_maps
        self.channels_last = channels_last
        inference = InferenceSettings.from_config(teacher_inference)
        self.teacher_outputs = TeacherOutputsSettings.from_config(teacher_outputs)
        self._taken_augments: RandomBatchAugment | None = None
        self._step_hooks: OrderedDict[int, StepHook] = OrderedDict()
        self._weighed = 0
        self.student = build_classifier(model, self.data_preprocessor, num_classes, 'student')
        check_classifier(self.student, 'student')
        self.input_size = check_input_size(student.get('input_size'), 'the student')
        loss = getattr(self.student.head, 'loss_module', None)
        self.label_smoothing = loss if isinstance(loss, LabelSmoothLoss) else None

        # In a tuple, and so no submodule: teachers take no part in state_dict(),
        # parameters(), init_weights(), train() and DDP. See `_apply`.
        self._teachers: tuple[TeacherPool | StoredTeacherPool, ...] = ()
        self.teacher_configs: list[TeacherConfig] = []
        if teachers is None:
            self._register_load_state_dict_pre_hook(_drop_training_parts)
            return
        output = self._infer_student_output()
        if num_classes is not None and output.logits.shape[1] != num_classes:
            raise InputError(
                f'`num_classes` is {num_classes}, but the student has {output.logits.shape[1]}: '
                f'its {type(self.student.backbone).__name__} and '
                f'{type(self.student.head).__name__} have no such setting. Set the number in its '
                'config.'
            )
        self.student_preprocessing = Preprocessing.from_config(
            preprocessor_cfg, 'the student', channels=input_channels(self.student)
        )
        pool: TeacherPool | StoredTeacherPool
        if isinstance(teachers, TeacherPool):
            pool = teachers
            if teacher_inference is not None:
                pool.inference = inference
        else:
            self.teacher_configs = read_teacher_configs(teachers, num_classes)
            if self.teacher_outputs is not None and self.teacher_outputs.reads:
                names = [config.name for config in self.teacher_configs]
                pool = StoredTeacherPool.open(self.teacher_outputs, names)
            else:
                pool = build_pool(
                    teachers,
                    self.student_preprocessing,
                    num_classes,
                    student_classes=output.logits.shape[1],
                    token_maps=token_maps,
                    inference=inference,
                )
        if self.teacher_outputs is not None and self.teacher_outputs.root is not None:
            if not self.teacher_configs:
                raise InputError(
                    '`teacher_outputs` needs the configs of the teachers: give `teachers` as a '
                    'list of dicts.'
                )
            if isinstance(pool, TeacherPool):
                pool = StoredTeacherPool.of_live(pool, self.teacher_outputs)
        self._teachers = (pool,)
        if output.logits.shape[1] != pool.spec.num_classes:
            raise InputError(
                f'The student has {output.logits.shape[1]} classes, but its teachers have '
                f'{pool.spec.num_classes}. Set `num_classes` in the distiller, change the heads '
                'in the configs, or give every such teacher a `class_map`.'
            )
        if self.label_smoothing is not None and self.label_smoothing.num_classes is None:
            self.label_smoothing.num_classes = pool.spec.num_classes
        self.connectors: ModuleDict | None = None
        shared: dict[str, Any] = dict(names=pool.spec.names)
        if self.feature_loss_weight > 0:
            self.connectors = build_connectors(
                output, pool.spec, {} if connector is None else connector
            )
            shared['channels'] = target_channels(self.connectors, pool.spec)
        self.logit_loss = _build_loss(logit_loss, 'logit', shared)
        self.feature_loss = _build_loss(feature_loss, 'feature', shared)
        self.extra_losses = nn.ModuleDict()
        self.extra_weights: dict[str, float] = {}
        for cfg in _check_list(extra_losses):
            self._add_extra_loss(dict(cfg), shared)
        self.weighting = build_component(MODELS, weighting, Weighting, 'weighting', pool=pool.spec)

    @property
    def teachers(self) -> TeacherPool | StoredTeacherPool:
        """The pool.

        Raises:
            InputError: If the student was built alone.
        """
        if not self._teachers:
            raise InputError('The distiller was built without teachers and cannot be trained.')
        return self._teachers[0]

    @property
    def live_teachers(self) -> TeacherPool:
        """The networks of the pool.

        Raises:
            InputError: If the teachers' outputs are read, or the student was
                built alone.
        """
        pool = self.teachers
        live = pool.live if isinstance(pool, StoredTeacherPool) else pool
        if live is None:
            raise InputError(
                'The networks of the teachers are needed, but their outputs are read from a '
                'store: leave out `model.teacher_outputs`.'
            )
        return live

    @property
    def has_teachers(self) -> bool:
        """Whether there is a pool; testing needs none."""
        return bool(self._teachers)

    @cached_property
    def teacher_records(self) -> list[TeacherRecord]:
        """What the outputs of the teachers with a checkpoint depend on.

        The files of their weights are read once, for their digests.
        """
        return [
            teacher_record(config, self.student_preprocessing, self.token_maps)
            for config in self.teacher_configs
            if config.checkpoint is not None
        ]

    def take_batch_augments(self) -> RandomBatchAugment | None:
        """Take mixup and cutmix out of the data preprocessor, for the data set to apply.

        The distiller keeps them for a later training of itself, on another data
        set.

        Returns:
            RandomBatchAugment | None: The augmentations, at every call; None if
            the data preprocessor never had any.
        """
        augments = getattr(self.data_preprocessor, 'batch_augments', None)
        if augments is not None:
            self._taken_augments = augments
            self.data_preprocessor.batch_augments = None
        return self._taken_augments

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Run the student, or compute the distillation loss.

        Args:
            inputs (Tensor): Preprocessed images, shape (B, 3, H, W).
            data_samples (list[DataSample], optional): Their labels. Defaults
                to None.
            mode (str): 'loss', 'predict' or 'tensor'. Defaults to 'tensor'.

        Returns:
            dict | list | Tensor: As mmpretrain's ``ImageClassifier`` returns.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        return self.student(inputs, data_samples, mode)

    def register_step_hook(self, hook: StepHook) -> RemovableHandle:
        """Have a function called in every training step, once its weights are known.

        Args:
            hook (Callable): Takes the step's :class:`StepTerms` and
                :class:`TeacherWeights`.

        Returns:
            RemovableHandle: As torch's; ``remove()`` ends the calls.
        """
        handle = RemovableHandle(self._step_hooks)
        self._step_hooks[handle.id] = hook
        return handle

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list[DataSample]): With hard or soft labels.

        Returns:
            dict[str, Tensor]: ``loss_ce``, ``loss_logit`` and ``loss_feature``,
            which sum to L, ``loss_*`` of the extra losses, and what else the
            student's head computes, as its accuracy.

        Raises:
            InputError: If there are no teachers, nothing trains a weighting
                that must be trained, the images or their labels do not fit the
                networks, or an image has several labels.
        """
        if self.training:
            self.weighting.check_trainer()
            self._check_blended_once()
        terms = self._run_networks(inputs, data_samples)
        with autocast(inputs.device.type, enabled=False):
            if self.training:
                for loss in (self.logit_loss, self.feature_loss, *self.extra_losses.values()):
                    loss.observe(terms)
            weights = self._weigh(terms)
            for hook in self._step_hooks.values():
                hook(terms, weights)
            logit = (weights.logit * terms.logit_loss).sum(dim=1).mean()
            losses = dict(
                loss_ce=terms.student_ce.mean(), loss_logit=self.logit_loss_weight * logit
            )
            if terms.projections is not None:
                feature = (weights.feature * terms.feature_loss).sum(dim=1).mean()
                losses['loss_feature'] = self.feature_loss_weight * feature
            for name, extra in self.extra_losses.items():
                level = weights.logit if extra.level == 'logit' else weights.feature
                weighed = (level * terms.compute_loss(extra)).sum(dim=1).mean()
                losses[f'loss_{name}'] = self.extra_weights[name] * weighed
        return {**losses, **terms.student.logs}

    def _check_blended_once(self) -> None:
        """Refuse mixup and cutmix of the data preprocessor on top of the data set's."""
        augments = getattr(self.data_preprocessor, 'batch_augments', None)
        if self._taken_augments is not None and augments is not None:
            raise InputError(
                "The data set blends the images, for which the teachers' outputs are stored, and "
                'something has set `batch_augments` of the data preprocessor again, which would '
                'blend them twice. Leave that out, or `model.teacher_outputs`.'
            )

    @torch.no_grad()
    def weigh(self, inputs: Tensor, data_samples: list) -> tuple[StepTerms, TeacherWeights]:
        """Compute terms and weights of images on which the student is not trained.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list[DataSample]): With hard or soft labels.

        Returns:
            tuple[StepTerms, TeacherWeights]: Without gradient. No step hook is
            called.

        Raises:
            InputError: As :meth:`loss`.
        """
        terms = self._run_networks(inputs, data_samples)
        with autocast(inputs.device.type, enabled=False):
            return terms, self._weigh(terms)

    def _weigh(self, terms: StepTerms) -> TeacherWeights:
        """Weigh the teachers; check what an own weighting returns."""
        weights = self.weighting(terms)
        name = type(self.weighting).__name__
        for head, values in (('logit', weights.logit), ('feature', weights.feature)):
            what = f'`{head}` of the weights of {name}'
            check_shape(values, (len(terms.labels), terms.num_teachers), what)
            if values.requires_grad:
                raise InputError(
                    f'{what} must have no gradient, or the student would be trained to change '
                    'them: put `@torch.no_grad()` before its `forward`.'
                )
            if self._weighed % _CHECK_INTERVAL == 0 and len(values) > 0:
                check_weights(values, what)
        self._weighed += 1
        return weights

    def _run_networks(self, inputs: Tensor, data_samples: list) -> StepTerms:
        """Run student and teachers, and make the terms of the batch."""
        inputs = self.format_inputs(inputs)
        if self.input_size not in (None, tuple(inputs.shape[-2:])):
            raise InputError(
                f'The `input_size` of the student is {self.input_size}, but the data pipeline '
                f'yields images of {tuple(inputs.shape[-2:])}: change one of them.'
            )
        labels = target_labels(data_samples).to(inputs.device)
        if self.training:
            self.teachers.prepare(inputs)
        teachers = self.teachers(inputs, data_samples)
        student = run_classifier(self.student, inputs, self.token_maps, data_samples, 'student')
        return self.make_terms(
            inputs, student, teachers, self._smoothed(labels), data_samples, labels
        )

    def format_inputs(self, inputs: Tensor) -> Tensor:
        """Bring preprocessed images to the memory format in which networks run.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
        """
        if self._use_channels_last(inputs.device):
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def make_terms(
        self,
        inputs: Tensor,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor,
        data_samples: Sequence[Any] | None = None,
        data_labels: Tensor | None = None,
    ) -> StepTerms:
        """Make the terms of a step.

        Args:
            inputs (Tensor): The images, shape (B, 3, H, W).
            student (NetworkOutput): The student's outputs.
            teachers (Sequence[NetworkOutput]): The teachers' outputs.
            labels (Tensor): Hard (B,) or soft (B, C) labels.
            data_samples (Sequence[DataSample], optional): The labels as the
                data gives them. Defaults to None.
            data_labels (Tensor, optional): The labels without smoothing. Defaults to
                None: ``labels``.

        Returns:
            StepTerms: The terms.
        """
        projections: list[Projection] | None = None
        if self.connectors is not None:
            projections = [
                connector(student, teacher)
                for connector, teacher in zip(self.connectors.values(), teachers)
            ]
        return StepTerms(
            student,
            teachers,
            labels,
            projections,
            self.logit_loss,
            self.feature_loss,
            self.logit_loss_weight,
            self.feature_loss_weight,
            self.logit_loss.temperature,
            inputs,
            data_samples,
            data_labels,  # type: ignore[arg-type]
        )

    def init_weights(self) -> None:
        """Initialise student, connectors and weighting; read the teachers' weights.

        The runner calls this once before training, and not for testing.

        Raises:
            InputError: If the student cannot be trained in channels_last on
                its device.
        """
        super().init_weights()
        if not self.has_teachers:
            return
        device = next(self.student.parameters()).device
        channels_last = self._use_channels_last(device)
        if channels_last:
            check_trainable_in_channels_last(self.student, device)
        self.teachers.load_weights()
        if channels_last:
            for network in (self.student, self.teachers):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _apply(self, fn: Callable, *args: Any, **kwargs: Any) -> 'MultiTeacherDistiller':
        """Take the teachers along to another device or precision."""
        if self.has_teachers:
            self.teachers._apply(fn)
        return super()._apply(fn, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> 'MultiTeacherDistiller':
        """Copy without the teachers and observers, for averaged models (EMA)."""
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        shared = dict(_teachers=self._teachers, _step_hooks=OrderedDict())
        for key, value in self.__dict__.items():
            clone.__dict__[key] = shared[key] if key in shared else copy.deepcopy(value, memo)
        return clone

    def _use_channels_last(self, device: torch.device) -> bool:
        return device.type == 'cuda' if self.channels_last is None else self.channels_last

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Depth of a parameter, for constructors of layer-wise learning rates.

        Args:
            param_name (str): Its name in the distiller.

        Returns:
            tuple[int, int]: Its layer in the student and the number of layers;
            what is no part of the student is as deep as its head.

        Raises:
            InputError: If the student's backbone has no depths.
        """
        name = param_name.removeprefix('student.') if 'student.' in param_name else 'head.'
        try:
            return self.student.get_layer_depth(name)
        except NotImplementedError as error:
            raise InputError(
                'Layer-wise learning rates need a student whose backbone has `get_layer_depth`, '
                f'as VisionTransformer; {type(self.student.backbone).__name__} has none. Take '
                '`constructor` out of `optim_wrapper`.'
            ) from error

    def _infer_student_output(self) -> NetworkOutput:
        """Find the sizes of the student's outputs; make sure that its loss can be had."""
        head = self.student.head
        seen: list[Any] = []
        handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            output = infer_output(self.student, 'student', self.input_size, self.token_maps)
        finally:
            handle.remove()
        check_head_loss(head, seen[-1], getattr(self.data_preprocessor, 'to_onehot', False))
        return output

    def _add_extra_loss(self, cfg: dict[str, Any], shared: dict[str, Any]) -> None:
        weight = check_number('loss_weight', cfg.pop('loss_weight', 1.0))
        loss = build_component(MODELS, cfg, DistillationLoss, 'extra loss', **shared)
        name = type(loss).__name__.lower()
        if name in _TERMS:
            raise InputError(
                f'An extra loss cannot be called {type(loss).__name__}: "loss_{name}" is a term of '
                'every training. Give its class another name.'
            )
        if loss.level == 'feature' and self.feature_loss_weight == 0:
            raise InputError(
                f'{type(loss).__name__} needs connectors: set `feature_loss_weight` above 0.'
            )
        if name in self.extra_losses:
            raise InputError(f'`extra_losses` lists {type(loss).__name__} twice.')
        self.extra_losses[name] = loss
        self.extra_weights[name] = weight

    def _smoothed(self, labels: Tensor) -> Tensor:
        """The labels that the student's head compares with: (B, C) where it smooths them."""
        smoothing = self.label_smoothing
        # Smoothed labels of several classes at once are no distribution.
        if smoothing is not None and smoothing.mode != 'multi_label':
            labels = smoothing.smooth_label(smoothing.generate_one_hot_like_label(labels))
        return labels


def _check_list(losses: Any) -> Sequence[dict[str, Any]]:
    """Check that extra losses are a list of dicts."""
    if not isinstance(losses, (list, tuple)) or not all(isinstance(one, dict) for one in losses):
        raise InputError(f'`extra_losses` must be a list of dicts, but is {losses!r}.')
    return losses


def _build_loss(cfg: dict[str, Any] | str, level: str, shared: dict[str, Any]) -> DistillationLoss:
    """Build a loss; refuse one on features in place of one on logits, and the reverse."""
    loss = build_component(MODELS, cfg, DistillationLoss, f'{level} loss', **shared)
    if loss.level != level:
        raise InputError(
            f'`{level}_loss` is {type(loss).__name__}, which compares {loss.level}s. Give it as '
            f'`{loss.level}_loss`, or in `extra_losses`.'
        )
    return loss


def _plain_student(
    model: dict[str, Any], preprocessor: dict[str, Any], num_classes: int | None
) -> dict[str, Any]:
    """The student's config, as it is built, in plain data."""
    plain = plain_config(model)
    if num_classes is not None:
        set_num_classes(plain, num_classes)
    return dict(model=plain, data_preprocessor=plain_config(preprocessor) or None)


def _drop_training_parts(state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Let a distiller without teachers take just the student's weights."""
    for key in list(state_dict):
        if key.removeprefix(prefix).split('.')[0] in _TRAINING_PARTS:
            del state_dict[key]
