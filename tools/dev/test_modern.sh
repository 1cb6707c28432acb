#!/usr/bin/env bash
# Tests the distillation part on a current PyTorch: Python 3.12, torch 2.11 or newer, numpy 2, mmcv-lite.
# Detection and segmentation are left out: mmdet and mmsegmentation need mmcv with compiled operators,
# which has none for this torch.
#
#   make test-modern                                  makes .venv-modern (once), runs the tests
#   PYTHON=/opt/py/bin/python3.12 make test-modern    the Python that a new .venv-modern is made from
#   PYTEST_ARGS="-m 'not slow'" make test-modern      as of make test
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

VENV=.venv-modern
PY=$PWD/$VENV/bin/python
STAMP=$VENV/.complete
KEY=$(cat requirements/{modern,runtime,optional,tests}.txt setup.py | cksum)

if [ ! -f $STAMP ] || [ "$(<$STAMP)" != "$KEY" ]; then
  PYTHON=${PYTHON-$(command -v python3.12 || true)}
  if ! "${PYTHON:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
    echo 'test-modern: needs Python 3.12 or newer; say where: PYTHON=/path/to/python3.12' >&2
    exit 1
  fi
  "$PYTHON" -m venv $VENV
  "$PY" -m pip install 'setuptools<81' wheel
  "$PY" -m pip install -r requirements/modern.txt -r requirements/runtime.txt \
    -r requirements/optional.txt -r requirements/tests.txt
  "$PY" -m pip install --no-deps --no-build-isolation -e .
  echo "$KEY" >$STAMP
fi

"$PY" -c 'import platform, numpy, torch; print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}")'
# shellcheck disable=SC2086  # PYTEST_ARGS is meant to be split
eval exec "$PY" -m pytest tests -n auto --maxprocesses 4 --dist loadgroup ${PYTEST_ARGS-}
