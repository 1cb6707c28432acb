# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Trains several configs one after the other, alone or in a group of processes.

Starting Python and a group of processes takes longer than such a training.
All computations are in float64, so that runs can be compared closely.

    python -m torch.distributed.run --nproc_per_node 2 train_methods.py \\
        FOLDER --configs A.py B.py --launcher pytorch

Every config is trained to its end into ``FOLDER/A``, and once more from its
last checkpoint but one into ``FOLDER/A_resumed``. What every process holds at
the end of the first training is saved as ``FOLDER/A/rank_0.pth``; what went
wrong is written to ``FOLDER/A/error.txt``.
"""

import argparse
import traceback
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size

from mtkdrl_mm.utils.launch import add_common_arguments, build_runner, check_data, load_config
from mtkdrl_mm.utils.processes import leave_process_group


def train(args: argparse.Namespace, config: str, folder: Path, start: Path | None) -> None:
    """Do what tools/train.py does with a config of the whole batch."""
    args.config, args.work_dir = config, str(folder)
    cfg: Config = load_config(args)
    cfg.experiment_name = f'{folder.parent.name}_{folder.name}'
    for loader in (cfg.train_dataloader, cfg.held_out_dataloader):
        loader.batch_size //= get_world_size()
    if start is not None:
        cfg.resume, cfg.load_from = True, str(start)
    check_data(cfg, ('train_dataloader',))
    runner = build_runner(cfg)
    runner.train()
    if start is None:
        model = getattr(runner.model, 'module', runner.model)
        torch.save(model.state_dict(), folder / f'rank_{get_rank()}.pth')


def main() -> None:
    """Train all configs; go on after an error, which is then the same in all processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--configs', nargs='+')
    add_common_arguments(parser)
    args = parser.parse_args()
    # In float32, sums in another order differ by 1e-7, and Adam makes steps of full length also of
    # gradients near zero: how far two processes end from one is then a matter of the machine.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    for config in args.configs:
        folder = args.folder / Path(config).stem
        folder.mkdir(parents=True, exist_ok=True)
        try:
            train(args, config, folder, None)
            epochs = Config.fromfile(config).train_cfg.max_epochs
            resumed = folder.with_name(f'{folder.name}_resumed')
            train(args, config, resumed, folder / f'epoch_{epochs - 1}.pth')
        except Exception:
            (folder / 'error.txt').write_text(traceback.format_exc())


if __name__ == '__main__':
    main()
    leave_process_group()
