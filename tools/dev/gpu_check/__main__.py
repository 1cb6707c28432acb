# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The command line: runs the checks that fit into the time, and writes the results after each."""

import argparse
import os
import os.path as osp
import shutil
import time

import torch

import gpu_check
from gpu_check.checks import CHECKS
from gpu_check.findings import FAILED, NOT_RUN, Result
from gpu_check.page import write_results
from gpu_check.runner import choose_start_method, run_check
from mtkdrl_mm.utils import InputError, check_number, near_matches
from mtkdrl_mm.utils.launch import run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='bash tools/dev/gpu_check.sh', description=gpu_check.__doc__.split('\n')[0]
    )
    parser.add_argument('out', help='folder for gpu_check.json and gpu_check.html')
    parser.add_argument('--seconds', type=float, default=530, help='time for all checks (530)')
    parser.add_argument(
        '--checks', nargs='+', metavar='NAME', help=f'only these, of {", ".join(CHECKS)}'
    )
    parser.add_argument(
        '--cifar10',
        default=osp.join(gpu_check.ROOT, 'data', 'cifar10_sample'),
        help='images of the comparison, written by tools/dataset_converters/cifar10.py',
    )
    return parser.parse_args()


def main() -> None:
    start = time.monotonic()
    args = parse_args()
    check_number('--seconds', args.seconds, minimum=0, exclusive=True)
    for name in args.checks or ():
        if name not in CHECKS:
            raise InputError(f'--checks: there is no check "{name}". {near_matches(name, CHECKS)}')
    args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    args.start_method = choose_start_method(args.device)
    args.out = osp.abspath(args.out)
    # Results of an earlier run would be taken for those of this one.
    shutil.rmtree(osp.join(args.out, 'files'), ignore_errors=True)
    os.makedirs(osp.join(args.out, 'files'))
    results: list[Result] = []
    for name in args.checks or CHECKS:
        check = CHECKS[name]
        left, needed = args.seconds - (time.monotonic() - start), check.seconds
        if left < min(needed, args.seconds) / 2:
            problem = f'not run: {max(left, 0):.0f} s were left, and it may take {needed:.0f} s'
            results.append(Result(name, check.title, NOT_RUN, problem=problem))
        else:
            # Without a GPU there is nothing to share out, and no telling how slow the machine is.
            seconds = min(needed, left) if args.device == 'cuda' else left
            results.append(run_check(check, args, seconds))
        result = results[-1]
        print(
            f'{result.state:<12}{name} ({check.title}), {result.seconds:.0f} s'
            + (f': {result.problem}' if result.problem else ''),
            flush=True,
        )
        write_results(results, args.out, time.monotonic() - start)
    print(f'\n{osp.join(args.out, "gpu_check.html")}')
    failed = [result.check for result in results if result.state == FAILED]
    if failed:
        raise InputError(f'{len(failed)} of {len(results)} checks failed: {", ".join(failed)}.')


if __name__ == '__main__':
    run_tool(main)
