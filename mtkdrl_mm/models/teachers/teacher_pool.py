# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The pool of frozen teachers."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mtkdrl_mm.structures import NetworkOutput
from mtkdrl_mm.utils import InputError
from mtkdrl_mm.utils.distributed import broadcast_from_main
from mtkdrl_mm.weights.locations import find_file

from .build_teacher import TeacherConfig, build_teacher, read_teacher_config
from .choose_mode import Choice, choose_mode
from .inference_mode import EAGER, InferenceMode, InferenceSettings
from .missing_teachers import missing_teachers
from .preprocessing import Preprocessing
from .teacher import Teacher


@dataclass(frozen=True)
class PoolSpec:
    """Names and sizes of a pool of M teachers.

    Attributes:
        names (tuple[str, ...]): The teachers' names, unique.
        num_classes (int): C, the same for all.
        embedding_sizes (tuple[int, ...]): Embedding size d_m of every teacher.
        map_channels (tuple[int | None, ...]): Channels c_m of every teacher's
            map; None for teachers without a map.
        signed_maps (tuple[bool, ...]): Whether entries of a teacher's map may be
            negative: not those behind a ReLU, but those of tokens, Swin, ConvNeXt
            and networks with SiLU or Hardswish. Defaults to ().
        embedding_scales (tuple[float, ...]): Factor by which the components of
            a teacher's embedding are scaled, see :class:`BasisFit`; 1 for an
            embedding in full. Defaults to (): 1 for all.
    """

    names: tuple[str, ...]
    num_classes: int
    embedding_sizes: tuple[int, ...]
    map_channels: tuple[int | None, ...]
    signed_maps: tuple[bool, ...] = ()
    embedding_scales: tuple[float, ...] = ()

    @property
    def num_teachers(self) -> int:
        """Number of teachers M."""
        return len(self.names)

    @property
    def module_names(self) -> tuple[str, ...]:
        """The teachers' names as names of modules, which must have no dots."""
        return tuple(map(module_name, self.names))


def module_name(name: str) -> str:
    """A teacher's name as the name of a module in checkpoints.

    Args:
        name (str): For example "resnet50.a1_in1k".

    Returns:
        str: For example "resnet50_a1_in1k".

    Raises:
        InputError: If modules cannot have this name.
    """
    result = name.replace('.', '_')
    if not result or hasattr(ModuleDict(), result):
        raise InputError(f'A teacher cannot be named "{name}": give it another `name`.')
    return result


class TeacherPool(nn.ModuleList):
    """A pool of M frozen teachers, which run on the student's batches.

    Args:
        teachers (Sequence[Teacher]): The teachers, with different names.
        student_preprocessing (Preprocessing): Preprocessing of the student's
            batches.
        num_classes (int, optional): Number of classes C that every teacher must
            have. Defaults to None: that of the first teacher.
        inference (InferenceSettings, optional): What :meth:`prepare` may do to
            run the teachers faster. Defaults to None: all that is faster.

    Raises:
        InputError: If there is no teacher, two have one name, or they disagree
            on the number of classes.

    Attributes:
        spec (PoolSpec): Names and sizes of the teachers' outputs.
        batch_size (int, optional): For outputs that are to be the same in every
            training. Smaller batches are filled up to this number of images,
            so that roundings do not depend on the batch, and :meth:`prepare`
            chooses modes by rule, not by time. Defaults to None: neither.

    Example:
        >>> import torch
        >>> from mtkdrl_mm.models import Preprocessing, build_pool
        >>> normalisation = Preprocessing(mean=(127.5,) * 3, std=(127.5,) * 3)
        >>> teacher = dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', name='resnet18')
        >>> pool = build_pool([teacher], normalisation)
        >>> pool.spec.names, pool.spec.num_classes, pool.spec.embedding_sizes
        (('resnet18',), 1000, (512,))
        >>> (output,) = pool(torch.zeros(2, 3, 64, 64))
        >>> tuple(output.logits.shape), tuple(output.feature_map.shape)
        ((2, 1000), (2, 512, 2, 2))
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        student_preprocessing: Preprocessing,
        num_classes: int | None = None,
        inference: InferenceSettings | None = None,
    ) -> None:
        if len(teachers) == 0:
            raise InputError('The pool needs at least one teacher.')
        _check_names([teacher.name for teacher in teachers])
        super().__init__(teachers)
        self.train(False)
        self.student_preprocessing = student_preprocessing
        self.spec = self._infer_spec(num_classes)
        self._prepared = False
        self._saved_modes: dict[str, InferenceMode] = {}
        self._origin = ''
        self.batch_size: int | None = None
        self.inference = inference or InferenceSettings()

    @property
    def inference(self) -> InferenceSettings:
        """What :meth:`prepare` may do to run the teachers faster."""
        return self._inference

    @inference.setter
    def inference(self, settings: InferenceSettings) -> None:
        self._inference = settings
        for teacher in self:
            teacher.offload = bool(settings.offload)

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names."""
        return tuple(teacher.name for teacher in self)

    def train(self, mode: bool = True) -> 'TeacherPool':
        """Keep eval mode, whatever ``mode`` is."""
        return super().train(False)

    def load_weights(self) -> None:
        """Load every teacher's weights; see :meth:`Teacher.load_weights`.

        Raises:
            InputError: Of one teacher, or of all whose files do not exist.
        """
        # Those that run in another mode were loaded before.
        if missing := missing_teachers(
            (teacher.name, teacher.checkpoint if teacher.mode == EAGER else None)
            for teacher in self
        ):
            raise InputError(missing)
        for teacher in self:
            teacher.load_weights()

    def check_classes(self, classes: Sequence[str]) -> None:
        """Compare the teachers' classes with the data's; see :meth:`Teacher.check_classes`."""
        for teacher in self:
            teacher.check_classes(classes)

    def _warn_of_random_weights(self) -> None:
        """Tell of a distiller that was built by hand, and lacks a call."""
        for teacher in self:
            # A benchmark names no file.
            known = teacher.checkpoint and not teacher.is_loaded
            if known and find_file(teacher.checkpoint, teacher.role) is not None:
                print_log(
                    f'The weights of teacher "{teacher.name}" have not been loaded from '
                    f'"{teacher.checkpoint}", and it runs with random ones: call `init_weights()` '
                    'of the distiller before its first step.',
                    'current',
                    logging.WARNING,
                )

    @torch.no_grad()
    def prepare(self, inputs: Tensor) -> None:
        """Choose and adopt each teacher's fastest mode; only the first call has an effect.

        The main process's choice is that of all processes. A resumed training
        takes the modes of its checkpoint, without a new measurement: another
        mode has other rounding errors.

        Args:
            inputs (Tensor): Images as normalised for the student, shape
                (B, c, H, W), as many as in a step; fewer are filled up to
                :attr:`batch_size`.

        Raises:
            InputError: If a setting is impossible on the device.
        """
        if self._prepared:
            return
        self._prepared = True
        self._warn_of_random_weights()
        inputs = self._filled_up(inputs)
        settings = self.inference
        if settings.dtype == 'float16' and inputs.device.type == 'cpu':
            raise InputError(
                '`teacher_inference.dtype` is "float16", which is for GPUs: set it to "auto" or '
                '"bfloat16" on the CPU.'
            )
        saved = {n: mode for n, mode in self._saved_modes.items() if settings.allow(mode)}
        restored = all(name in saved for name in self.names)
        # Neither the copies of the networks nor their runs may change what the step draws.
        devices = [inputs.device] if inputs.device.type == 'cuda' else []
        choices = []
        with torch.random.fork_rng(devices=devices):
            for teacher in self:
                images = teacher.preprocessing.convert(inputs, self.student_preprocessing)
                mode = saved.get(teacher.name)
                choice = choose_mode(teacher, images, settings, mode, timed=self.batch_size is None)
                main = broadcast_from_main(choice.teacher.mode.to_dict())
                wanted = InferenceMode.from_dict(main)
                if wanted not in (None, choice.teacher.mode):
                    choice.teacher = teacher  # frees the copy that was chosen here
                    if wanted != EAGER:
                        choice.teacher = teacher.candidate(wanted, images) or teacher
                if choice.teacher is not teacher:
                    teacher.adopt(choice.teacher)
                choices.append(choice)
        for teacher, choice in zip(self, choices):
            if choice.problems:
                print_log(
                    f'Teacher "{teacher.name}" cannot run {"; nor ".join(choice.problems)}. It '
                    f'runs {teacher.mode}.',
                    'current',
                    logging.WARNING,
                )
        print_log(self._describe(choices, restored), 'current')
        if settings.offload and inputs.device.type == 'cpu':
            print_log(
                'Teachers: `offload` has no effect on the CPU, where there is no device memory '
                'to save.',
                'current',
            )

    def inference_state(self) -> dict[str, dict[str, Any]] | None:
        """The teachers' modes as plain data, for checkpoints; None before they are known."""
        if self._prepared:
            return {teacher.name: teacher.mode.to_dict() for teacher in self}
        return {name: mode.to_dict() for name, mode in self._saved_modes.items()} or None

    def restore_inference(self, state: Any, origin: str = 'the checkpoint') -> None:
        """Have :meth:`prepare` take the modes of a checkpoint.

        Args:
            state (dict | None): What :meth:`inference_state` has returned.
                Entries of other versions or teachers are ignored.
            origin (str): Where it comes from, for the log. Defaults to 'the
                checkpoint'.
        """
        self._origin = origin
        entries = state.items() if isinstance(state, dict) else ()
        modes = {name: InferenceMode.from_dict(entry) for name, entry in entries}
        self._saved_modes = {
            name: mode for name, mode in modes.items() if mode is not None and name in self.names
        }

    def _describe(self, choices: Sequence[Choice], restored: bool) -> str:
        """One line on the modes, for the log."""
        groups: dict[str, list[str]] = {}
        for teacher in self:
            groups.setdefault(str(teacher.mode), []).append(teacher.name)
        text = next(iter(groups))
        if len(groups) > 1:
            text = '; '.join(f'{mode} ({", ".join(names)})' for mode, names in groups.items())
        deviation = max(choice.deviation for choice in choices)
        largest = f'largest deviation of the logits {_short(deviation)} standard deviations'
        if restored:
            text += f', as in {self._origin}'
        if set(groups) == {str(EAGER)}:
            return f'Teachers: {text}.'
        eager = sum(choice.eager_seconds for choice in choices)
        if restored or not eager:
            return f'Teachers: {text}: {largest}.'
        ratio = sum(choice.seconds for choice in choices) / eager
        return f'Teachers: {text}: {ratio:.2f} of eager, {largest}.'

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[Any] | None = None,
        names: Collection[str] | None = None,
    ) -> list[NetworkOutput]:
        """Run teachers on a batch.

        Args:
            inputs (Tensor): Images as normalised for the student, shape
                (B, c, H, W).
            data_samples (Sequence[DataSample], optional): Not used; for
                :class:`StoredTeacherPool`, which has the same interface.
                Defaults to None.
            names (Collection[str], optional): Names of the teachers to run.
                Defaults to None: all.

        Returns:
            list[NetworkOutput]: The outputs of every such teacher, without
            gradient, in the order of the pool.
        """
        count = len(inputs)
        inputs = self._filled_up(inputs)
        converted: dict[Preprocessing, Tensor] = {}
        outputs = []
        teachers = [teacher for teacher in self if names is None or teacher.name in names]
        for index, teacher in enumerate(teachers):
            if self.inference.offload == 'prefetch' and index + 1 < len(teachers):
                teachers[index + 1].prefetch(inputs.device)
            wanted = teacher.preprocessing
            if wanted not in converted:
                converted[wanted] = wanted.convert(inputs, self.student_preprocessing)
            outputs.append(_first(teacher(converted[wanted]), count))
        return outputs

    def _filled_up(self, inputs: Tensor) -> Tensor:
        """Repeat the images of an incomplete batch, up to :attr:`batch_size`."""
        count = len(inputs)
        if self.batch_size is None or count >= self.batch_size:
            return inputs
        repeats = -(-self.batch_size // count)
        return torch.cat([inputs] * repeats)[: self.batch_size]

    def _infer_spec(self, num_classes: int | None) -> PoolSpec:
        """Infer the sizes of every teacher's outputs from dummy images."""
        outputs = [teacher.infer_output() for teacher in self]
        num_classes = self._check_classes(outputs, num_classes)
        return PoolSpec(
            names=self.names,
            num_classes=num_classes,
            embedding_sizes=tuple(output.embedding.shape[1] for output in outputs),
            map_channels=tuple(
                None if output.feature_map is None else output.feature_map.shape[1]
                for output in outputs
            ),
            signed_maps=tuple(
                output.feature_map is not None and bool(output.feature_map.lt(0).any())
                for output in outputs
            ),
        )

    def _check_classes(self, outputs: Sequence[NetworkOutput], num_classes: int | None) -> int:
        """Check that all teachers have the same number of classes C; return C."""
        counts: dict[str, int] = {}
        for teacher, output in zip(self, outputs):
            if teacher.class_map is not None:
                num_outputs = None if teacher.zero_shot is not None else output.logits.shape[1]
                teacher.class_map.check(num_outputs, num_classes)
                counts[teacher.name] = len(teacher.class_map)
            elif teacher.zero_shot is None:
                counts[teacher.name] = output.logits.shape[1]
        if len(set(counts.values())) > 1:
            listed = ', '.join(f'"{n}" has {c}' for n, c in counts.items())
            raise InputError(
                f'The teachers disagree on the number of classes: {listed}. All teachers must '
                'have been trained on the same classes, or have a `class_map` that picks them.'
            )
        if not counts and num_classes is None:
            raise InputError(
                'The number of classes is not known, since all teachers have `zero_shot`: set '
                '`num_classes`.'
            )
        total = next(iter(counts.values())) if counts else int(num_classes or 0)
        for teacher, output in zip(self, outputs):
            if teacher.zero_shot is not None:
                teacher.zero_shot.expect(total, output.logits.shape[1])
                output.embedding = output.logits
        return total


def _first(output: NetworkOutput, count: int) -> NetworkOutput:
    """The outputs for the first images of a batch."""
    if len(output.logits) == count:
        return output
    feature_map = output.feature_map
    return replace(
        output,
        logits=output.logits[:count],
        embedding=output.embedding[:count],
        feature_map=None if feature_map is None else feature_map[:count],
    )


def _short(number: float) -> str:
    """A number with one digit: "3e-8"."""
    mantissa, _, exponent = f'{number:.0e}'.partition('e')
    return '0' if number == 0 else f'{mantissa}e{int(exponent)}'


def build_pool(
    teachers: Sequence[dict[str, Any]],
    student_preprocessing: Preprocessing,
    num_classes: int | None = None,
    student_classes: int | None = None,
    token_maps: bool = False,
    inference: InferenceSettings | None = None,
) -> TeacherPool:
    """Build a pool from the configs of its teachers.

    Only the architectures are built. The weights are read later by
    :meth:`TeacherPool.load_weights`, so a model can be built and tested without
    the teachers' files.

    Args:
        teachers (Sequence[dict]): One config per teacher with the keys

            - ``model_name``, timm's name of the network; or ``cfg_path`` with
              optional ``cfg_options``; or an inline model with ``type``: the
              network.
            - ``checkpoint`` (str): Path, URL or address of its weights, see
              :mod:`mtkdrl_mm.weights.locations`. Defaults to timm's for a
              ``model_name`` alone.
            - ``weights`` (str, optional): 'ema' or 'raw', where that file has
              both averaged and raw weights. Defaults to the averaged ones.
            - ``name`` (str, optional): Defaults to the config file's stem or
              the backbone's type and depth.
            - ``data_preprocessor`` (dict, optional): Its mean, std and to_rgb.
              Defaults to the config file's, else timm's for a network of
              timm, else the student's.
            - ``input_size`` (int | tuple, optional): Its resolution. Defaults
              to the student's, except for networks of timm with a fixed size.
            - ``class_map`` (Sequence[int], optional): For every student class,
              the index of the teacher's class, if they differ.
            - ``zero_shot`` (dict, optional): ``text_embeddings`` and
              ``logit_scale``, for a network whose outputs are image
              embeddings; see :class:`ZeroShot`.
            - ``check_classes`` (bool): Whether a file of weights that has a class
              of the data at another place is refused. Defaults to True.
        student_preprocessing (Preprocessing): Preprocessing of the student's
            batches.
        num_classes (int, optional): Number of classes to set in every teacher
            with a ``cfg_path``. Defaults to None.
        student_classes (int, optional): Number of classes C that every teacher
            must have. Defaults to ``num_classes``.
        token_maps (bool): Whether transformers' patch tokens count as maps.
            Defaults to False.
        inference (InferenceSettings, optional): What may be done to run the
            teachers faster. Defaults to None: all that is faster.

    Returns:
        TeacherPool: The pool.

    Raises:
        InputError: If the list is empty, two teachers share a name, a config is
            unusable, or the teachers disagree on the number of classes.
    """
    _check_list(teachers)
    # Building a network draws random numbers; the student's initialisation must not depend on
    # its teachers.
    with torch.random.fork_rng(devices=[]):
        built = [
            build_teacher(cfg, index, student_preprocessing, num_classes, token_maps)
            for index, cfg in enumerate(teachers)
        ]
    return TeacherPool(built, student_preprocessing, student_classes or num_classes, inference)


def read_teacher_configs(
    teachers: Sequence[dict[str, Any]], num_classes: int | None = None
) -> list[TeacherConfig]:
    """Read the configs of a pool without building networks.

    Args:
        teachers (Sequence[dict]): As for :func:`build_pool`.
        num_classes (int, optional): As for :func:`build_pool`.

    Returns:
        list[TeacherConfig]: Their parts.

    Raises:
        InputError: If the list is empty, two teachers share a name, or a config
            is unusable.
    """
    _check_list(teachers)
    configs = [read_teacher_config(cfg, index, num_classes) for index, cfg in enumerate(teachers)]
    _check_names([config.name for config in configs])
    return configs


def _check_names(names: Sequence[str]) -> None:
    """Make sure that the connectors, which are modules, get different names."""
    modules = list(map(module_name, names))
    for index, module in enumerate(modules):
        first = modules.index(module)
        if first < index:
            raise InputError(
                f'Two teachers are named "{names[first]}" (numbers {first} and {index}). '
                'Give one of them another `name`.'
            )


def _check_list(teachers: Any) -> None:
    if not isinstance(teachers, (list, tuple)) or len(teachers) == 0:
        raise InputError(f'`teachers` must be a list of at least one teacher, but is {teachers!r}.')
