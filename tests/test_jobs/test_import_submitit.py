# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""The import of submitit."""

import subprocess

from warm_python import tool_python


def test_log_files_stay_open(tmp_path):
    """The import of submitit configures logging, which closes the files of all loggers."""
    code = (
        'import logging, os, sys\n'
        'handler = logging.FileHandler(sys.argv[1])\n'
        'logging.getLogger("mmengine").addHandler(handler)\n'
        'from mtkdrl_mm.jobs.import_submitit import import_submitit\n'
        'assert import_submitit().__name__ == "submitit"\n'
        'assert handler.stream is not None and "SUBMITIT_LOG_LEVEL" not in os.environ\n'
    )
    done = subprocess.run(
        [tool_python(), '-c', code, str(tmp_path / 'log')], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
