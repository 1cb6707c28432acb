# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Imports the large packages once, then forks: server.py SOCKET OWNER.

OWNER is the process id of the test session, with which the server ends.
"""

import functools
import gc
import json
import os
import resource
import runpy
import selectors
import shutil
import signal
import socket
import sys
import time
import types
from typing import Any

BASE_PATH = sys.path[1:]  # without this folder
# Only what the tools of this project import anyway, and nothing that registers data sets,
# transforms, hooks or metrics: a tool that forgets to import those must still fail.
PACKAGES = (
    'torch',
    'torchvision',
    'torch.distributed.run',
    'cv2',
    'matplotlib.pyplot',
    'scipy.optimize',
    'scipy.stats',
    'sklearn.datasets',
    'mmengine.runner',
    'mmpretrain.models',
)


def serve(path: str, owner: int) -> dict[str, Any]:
    """Fork for every request, until the owner ends.

    Returns:
        dict: In the fork, the request.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f'{path}.new')
    listener.listen(64)
    os.rename(f'{path}.new', path)  # visible when it accepts connections
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, ('request', None))
    selector.register(os.pidfd_open(owner), selectors.EVENT_READ, ('owner', None))
    while True:
        for key, _ in selector.select():
            kind, fork = key.data
            if kind == 'owner':
                # A session that was killed has left its tools behind.
                for entry in selector.get_map().values():
                    if entry.data[0] == 'end':
                        os.kill(entry.data[1][0], signal.SIGKILL)
                shutil.rmtree(os.path.dirname(path), ignore_errors=True)
                sys.exit()
            if kind == 'request':
                connection, _ = listener.accept()
                request = receive(connection)
                pid = os.fork()
                if pid == 0:
                    for entry in list(selector.get_map().values()):
                        if isinstance(entry.fileobj, int):
                            os.close(entry.fileobj)
                        else:
                            entry.fileobj.close()
                    selector.close()
                    connection.close()
                    return request
                for stream in request['streams']:
                    os.close(stream)
                send(connection, pid)
                fork = (pid, os.pidfd_open(pid), connection, request['arguments'], time.monotonic())
                selector.register(fork[1], selectors.EVENT_READ, ('end', fork))
                selector.register(connection, selectors.EVENT_READ, ('client', fork))
            elif kind == 'client':
                # A client that was killed closes its side; nothing else comes from there.
                selector.unregister(fork[2])
                os.kill(fork[0], signal.SIGKILL)
            elif kind == 'end':
                finish(fork, selector)
                break  # the client's entry among these events may be of the same fork


def receive(connection: socket.socket) -> dict[str, Any]:
    """Read a request, which starts with its length and the three standard streams."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile('rb') as file:
        request = json.loads(file.read(int.from_bytes(size, 'big')))
    return dict(request, streams=streams)


def send(connection: socket.socket, number: int) -> None:
    """Send a number, unless the client is gone."""
    try:
        connection.sendall(f'{number}\n'.encode())
    except OSError:
        pass


def finish(fork: tuple, selector: selectors.BaseSelector) -> None:
    """Pass on how a fork has ended."""
    pid, handle, connection, arguments, start = fork
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    selector.unregister(handle)
    os.close(handle)
    if connection in selector.get_map():
        selector.unregister(connection)
    send(connection, code)
    connection.close()
    took = f'{usage.ru_utime + usage.ru_stime:.2f} s of CPU time, {time.monotonic() - start:.2f} s'
    print(f'{took}, code {code}: {arguments}', flush=True)


def become(request: dict[str, Any]) -> None:
    """Make this fork look like an interpreter with the request's command line, and run it."""
    from client import split

    for number, stream in enumerate(request['streams']):
        os.dup2(stream, number)
        os.close(stream)
    environment = request['environment']
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request['folder'])
    arguments = request['arguments']
    unbuffered = arguments[0] == '-u' or bool(environment.get('PYTHONUNBUFFERED'))
    sys.stdin = sys.__stdin__ = open(0, closefd=False)
    sys.stdout = sys.__stdout__ = open(1, 'w', closefd=False)
    sys.stdout.reconfigure(write_through=unbuffered, line_buffering=unbuffered)
    sys.stderr = sys.__stderr__ = open(2, 'w', 1, errors='backslashreplace', closefd=False)
    # What a new interpreter draws at its start.
    import numpy as np
    import torch

    np.random.seed()
    torch.seed()

    kind, rest = split(arguments)
    sys.executable = request['executable']
    sys.argv = rest if kind == 'file' else [kind or '', *rest[1:]]
    paths = [path for path in environment.get('PYTHONPATH', '').split(os.pathsep) if path]
    first = os.path.dirname(os.path.abspath(rest[0])) if kind == 'file' else ''
    sys.path[:] = [os.getcwd() if kind == '-m' else first, *paths, *BASE_PATH]
    del sys.modules['client']
    sys.path_importer_cache.clear()
    if kind == '-m':
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
        return
    main = types.ModuleType('__main__')
    code = rest[0]
    if kind == 'file':
        main.__file__ = rest[0]
        with open(rest[0], 'rb') as file:
            code = file.read()
    sys.modules['__main__'] = main
    exec(compile(code, rest[0] if kind == 'file' else '<string>', 'exec'), main.__dict__)


def read_index() -> None:
    """Read mmpretrain's 85 lists of models, as mmengine does for every base that is in mmpretrain.

    A fork would read them up to seven times.
    """
    from mmengine.config import utils
    from mmengine.utils import get_installed_path

    utils.load = functools.cache(utils.load)
    try:
        utils._get_cfg_metainfo(get_installed_path('mmpretrain'), 'none of them')
    except (ValueError, OSError):  # it is none of them; the forks' packages have their own index
        pass


def format_configs_once() -> None:
    """Have yapf format a text once: a short training has its config formatted seven times."""
    import mmengine.config.config
    import yapf.yapflib.yapf_api

    original = yapf.yapflib.yapf_api.FormatCode
    known: dict[str, Any] = {}

    def format_code(text: str, *args: Any, **kwargs: Any) -> Any:
        if text not in known:
            known[text] = original(text, *args, **kwargs)
        return known[text]

    # Some versions of mmengine import it when it is needed, others with the module.
    for module in (yapf.yapflib.yapf_api, mmengine.config.config):
        if hasattr(module, 'FormatCode'):
            module.FormatCode = format_code


if __name__ == '__main__':
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the client had blocked some
    for package in PACKAGES:
        try:
            __import__(package)
        except ImportError:  # the tool that needs it says so
            pass
    read_index()
    format_configs_once()
    # The collections of a fork have nothing to find in what is there before it.
    gc.collect()
    gc.freeze()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f'{used.ru_utime + used.ru_stime:.2f} s of CPU time, imports', flush=True)
    become(serve(sys.argv[1], int(sys.argv[2])))
