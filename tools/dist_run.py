# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""torchrun for the tools of this project, with the exit code of the tool.

    python tools/dist_run.py PROCESSES TOOL [arguments of the tool]

Variables: NNODES, NODE_RANK, MASTER_ADDR and PORT for several machines; DIST_TIMEOUT (seconds that
processes and machines wait for each other); SAVE_TIMEOUT (seconds that the processes have to save a
checkpoint after SIGTERM or SIGINT, 600). torchrun itself exits with 1 whatever happens, and kills
30 seconds after a signal. This program exits with

- the code of the first process that failed, which is 128 plus the signal's number where the tool
  has saved its checkpoint after a signal;
- 128 plus the signal's number where a signal ended a process, or this one.
"""

import logging
import os
import signal
import sys
from typing import Any

from torch.distributed.elastic.multiprocessing import PContext, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

# The end of a process is reported here in one line instead.
logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
for _name in ('torch.distributed.elastic.agent.server.api', 'torch.distributed.run'):
    logging.getLogger(_name).setLevel(logging.ERROR)

LOOPBACK = '127.0.0.1'
DEFAULT_PORT = '29500'
# Seconds. The commands on several machines are started by hand, one after the other.
DEFAULT_TIMEOUT = '600'

# Exit codes of the processes once torchrun has stopped them.
_stopped: list[int] = []


class UsageError(ValueError):
    """Raised for an invalid variable or argument."""


def main(argv: list[str] | None = None) -> int:
    """Run a tool in several processes.

    Args:
        argv (list[str], optional): The command line. Defaults to that of this process.

    Returns:
        int: The exit code.
    """
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) < 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        arguments = torchrun_arguments(argv[0], os.environ)
        save_timeout = _number(os.environ, 'SAVE_TIMEOUT', '600')
    except UsageError as error:
        print(f'\nError: {error}', file=sys.stderr)
        return 2
    _wait_for_checkpoints(save_timeout)
    # torchrun does this as well, with six lines of warning.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    try:
        run(parse_args([*arguments, *argv[1:]]))
    except SignalException as error:
        if -signal.SIGKILL in _stopped:
            print(
                f'\nError: The processes were still busy {save_timeout} s after '
                f'{signal.Signals(error.sigval).name} and were killed, perhaps without a '
                'checkpoint. Set SAVE_TIMEOUT (seconds) higher.',
                file=sys.stderr,
            )
        return code_after_signal(error.sigval, _stopped)
    except ChildFailedError as error:
        return _report(error)
    except (RuntimeError, TimeoutError) as error:
        # torchrun itself could not reach the other machine.
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
        from mtkdrl_mm.utils.processes import describe_group_error

        machine = f'Machine {os.environ.get("NODE_RANK", "0")} of {os.environ.get("NNODES", "1")}'
        os.environ['MASTER_PORT'] = os.environ.get('PORT') or DEFAULT_PORT
        os.environ.setdefault('MASTER_ADDR', LOOPBACK)
        patience = float(os.environ.get('DIST_TIMEOUT') or DEFAULT_TIMEOUT)
        lost = describe_group_error(error, machine, patience)
        if lost is None:
            raise
        print(f'\nError: {lost}', file=sys.stderr)
        return 1
    return 0


def torchrun_arguments(processes: str, environ: Any) -> list[str]:
    """Convert this project's variables to torchrun's arguments.

    Args:
        processes (str): Number of processes on this machine.
        environ (Mapping[str, str]): The environment variables.

    Returns:
        list[str]: On one machine without PORT, torchrun finds a free port.

    Raises:
        UsageError: If a number is invalid, or MASTER_ADDR is missing.
    """
    if not processes.isdecimal() or int(processes) < 1:
        raise UsageError(f'The number of processes must be 1 or more, but is {processes!r}.')
    arguments = [f'--nproc_per_node={processes}']
    machines = _number(environ, 'NNODES', '1')
    address, port = environ.get('MASTER_ADDR'), environ.get('PORT')
    if machines == 1 and not port:
        # The name of this host may have no address.
        return [*arguments, '--standalone', f'--local_addr={LOOPBACK}']
    if machines > 1 and not address:
        raise UsageError(
            f'NNODES={machines} needs MASTER_ADDR, an address of the first machine that all '
            'machines can reach.'
        )
    rank = _number(environ, 'NODE_RANK', '0', minimum=0)
    if rank >= machines:
        raise UsageError(f'NODE_RANK is {rank}, and must be less than NNODES ({machines}).')
    return [
        *arguments,
        f'--nnodes={machines}',
        f'--node_rank={rank}',
        f'--master_addr={address or LOOPBACK}',
        f'--master_port={_number(environ, "PORT", DEFAULT_PORT)}',
        f'--rdzv_conf=timeout={_number(environ, "DIST_TIMEOUT", DEFAULT_TIMEOUT)}',
    ]


def _number(environ: Any, name: str, default: str, minimum: int = 1) -> int:
    text = environ.get(name) or default
    if not text.isdecimal() or int(text) < minimum:
        raise UsageError(f'{name} must be a whole number of at least {minimum}, but is {text!r}.')
    return int(text)


def code_after_signal(number: int, codes: list[int]) -> int:
    """The exit code after torchrun has forwarded a signal.

    Args:
        number (int): The signal.
        codes (list[int]): Exit codes of the processes; negative for a signal.

    Returns:
        int: 128 plus the signal if it ended all processes; else the code of the first process
        that failed in another way; 0 if the tool had just finished.
    """
    expected = (128 + number, -number)
    for code in codes:
        if code not in (0, *expected):
            return shell_code(code)
    return 0 if codes and not any(codes) else 128 + number


def shell_code(code: int) -> int:
    """Convert a process's exit code to that of a shell: 128 + N instead of -N after signal N."""
    return code if code >= 0 else 128 - code


def _wait_for_checkpoints(seconds: int) -> None:
    """Extend the 30 seconds that torchrun waits for the processes after a signal.

    Up to torch 2.11 no flag or variable sets this time, only the argument of this method. After
    the failure of a process, the others save nothing, and the 30 seconds stay.
    """
    close = PContext.close

    def close_after_checkpoint(
        self: PContext, death_sig: signal.Signals | None = None, timeout: int = 30
    ) -> None:
        if isinstance(sys.exc_info()[1], SignalException):
            timeout = seconds
            # A second SIGTERM must not prevent the checkpoint.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        close(self, death_sig, timeout)
        handlers = getattr(self, 'subprocess_handlers', {})
        _stopped[:] = [handler.proc.returncode or 0 for handler in handlers.values()]

    PContext.close = close_after_checkpoint  # type: ignore[method-assign]


def _report(error: ChildFailedError) -> int:
    """Report that a signal ended a process, which the process itself could not report."""
    _, failure = error.get_first_failure()
    if failure.exitcode < 0:
        number = -failure.exitcode
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f'signal {number}'
        advice = {
            'SIGKILL': ' Probably it ran out of memory: see the log of the machine.',
            'SIGABRT': ' If torch reports a timeout of a collective operation above, another '
            'process was lost: look for an error in its log, check the network and '
            'NCCL_SOCKET_IFNAME, or increase DIST_TIMEOUT (seconds).',
        }.get(name, '')
        print(
            f'\nError: {name} ended process {failure.local_rank} of this machine (counted from '
            f'0; pid {failure.pid}).{advice}',
            file=sys.stderr,
        )
    return shell_code(failure.exitcode)


if __name__ == '__main__':
    sys.exit(main())
