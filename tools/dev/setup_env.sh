#!/usr/bin/env bash
# Makes a pinned environment with this package installed editable.
#
#   make env                      .venv, the reference environment: Python 3.11, torch 2.1, OpenMMLab's packages
#   make env-current              .venv-current: Python 3.12, torch 2.14, numpy 2, the maintained forks (onedl-...)
#
# What is already there is kept; a second run does nothing. Both read these variables:
#
#   PYTHON=/opt/py/bin/python3.11 make env     the Python that a new environment is made from
#   MMCV_INDEX=URL make env       another page of mmcv wheels than the publisher's
#   MAX_JOBS=4 make env           processes for the source build of mmcv
#
# Each step leaves a stamp in .stamps that holds a key of all its inputs, written only when the step
# is complete: a step with a missing or old stamp is done again, whatever stopped it before.
set -Eeuo pipefail
trap '[ "$BASH_SUBSHELL" != 0 ] || echo "setup: stopped at line $LINENO, for the reason above. What is done stays: $MAKE_IT goes on from there." >&2' ERR
trap 'echo "setup: interrupted. What is done stays: $MAKE_IT goes on from there." >&2; exit 130' INT
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

REQ=requirements
case ${1-reference} in
  reference)
    MAKE_IT='make env' VENV=.venv VERSION=3.11
    PINS=$REQ/constraints.txt OPENMMLAB=$REQ/mminstall.txt MMCV=mmcv
    ;;
  current)
    MAKE_IT='make env-current' VENV=.venv-current VERSION=3.12
    PINS=$REQ/constraints_current.txt OPENMMLAB=$REQ/mminstall_onedl.txt MMCV=onedl-mmcv
    ;;
  *)
    echo "setup: there is no environment \"$1\", but \"reference\" and \"current\"." >&2
    exit 2
    ;;
esac
PY=$PWD/$VENV/bin/python
STAMPS=$VENV/.stamps
LOCK=$VENV.lock
STEPS=(venv torch mmcv openmmlab others mim package check)

# Settings that would make pip install elsewhere, or believe that packages outside are in it.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE=1 PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n==> %s\n' "$*"; }
die() {
  printf '\nsetup: %s\n' "$*" >&2
  exit 1
}
pinned() { sed -n "s/^$1==//p" $PINS; }
pip_install() { "$PY" -m pip install -c $PINS "$@"; }

# --- what is to be done -----------------------------------------------------------------------

key_of() {
  case $1 in
    # Scripts in bin/ name their own path: a moved checkout needs a new environment.
    venv) echo "$PWD" ;;
    torch) cat $REQ/build.txt $PINS ;;
    # Compiled against one torch.
    mmcv) grep -E "^($MMCV|torch)==" $PINS ;;
    openmmlab) cat $OPENMMLAB $PINS ;;
    others) cat $REQ/runtime.txt $REQ/optional.txt $REQ/tests.txt $PINS ;;
    mim) cat $REQ/mim.txt ;;
    package) cat setup.py pyproject.toml mtkdrl_mm/version.py \
      $REQ/mminstall.txt $REQ/runtime.txt $REQ/optional.txt $REQ/tests.txt ;;
    check) cat $REQ/{build,runtime,optional,tests}.txt $OPENMMLAB $PINS setup.py ;;
  esac | cksum
}
is_done() {
  [ -f "$STAMPS/$1" ] && [ "$(<"$STAMPS/$1")" = "$(key_of "$1")" ]
}
stamp() {
  key_of "$1" >"$STAMPS/$1.new"
  mv "$STAMPS/$1.new" "$STAMPS/$1"
}
# The lock file has content while an environment is being made. `python -c ''` fails if the Python
# that it was made from has been removed.
venv_is_whole() { [ ! -s $LOCK ] && is_done venv && "$PY" -c '' 2>/dev/null; }
all_done() {
  local step
  venv_is_whole || return 1
  for step in "${STEPS[@]}"; do is_done "$step" || return 1; done
}

# --- checks that come before the long downloads -------------------------------------------------

is_right_python() {
  "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$VERSION')" >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${PYTHON-}" ]; then
    is_right_python "$PYTHON" ||
      die "PYTHON=$PYTHON does not run as Python $VERSION; name one that does, or leave PYTHON unset."
    python=$PYTHON
  else
    python=
    for candidate in "python$VERSION" python3; do
      if is_right_python "$candidate"; then
        python=$candidate
        break
      fi
    done
    [ -n "$python" ] ||
      die "no Python $VERSION found: sudo apt install python$VERSION python$VERSION-venv (or PYTHON=/path/to/python$VERSION $MAKE_IT)"
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python lacks the venv or ensurepip module: sudo apt install python$VERSION-venv"
}

free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }
device_of() { df -Pk "$1" | awk 'NR == 2 { print $6 }'; }

check_disk() {
  local need=8000 tmp=${TMPDIR:-/tmp} free
  if [ "$(device_of .)" != "$(device_of "$tmp")" ]; then
    need=6000
    free=$(free_mb "$tmp")
    [ "$free" -ge 3000 ] ||
      die "about 3 GB are needed in $tmp for downloads, $free MB are free: make room, or set TMPDIR to a folder with more."
  fi
  free=$(free_mb .)
  [ "$free" -ge $need ] ||
    die "about $((need / 1000)) GB of disk are needed in $PWD, $free MB are free: make room, then run this again."
  # pip's cache would hold the downloads a second time, on what is most often the same disk.
  [ "$free" -ge $((need + 3000)) ] || export PIP_NO_CACHE_DIR=1
}

# Only a source build needs these, but then it should not be found out after gigabytes of torch.
check_compilers() {
  local tool header
  for tool in "${CC:-gcc}" "${CXX:-g++}"; do
    command -v "${tool%% *}" >/dev/null ||
      die "mmcv has to be built from source, and there is no $tool: sudo apt install build-essential"
  done
  header=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
  [ -f "$header" ] ||
    die "mmcv has to be built from source, and $header is missing: sudo apt install python$VERSION-dev"
}

# --- the steps ----------------------------------------------------------------------------------

make_venv() {
  local why=
  if [ -d $VENV ] && [ ! -d $STAMPS ] && [ ! -s $LOCK ]; then
    # Not made here. Somebody's own environment is used, or left alone, but never cleared.
    if is_right_python "$PY" && "$PY" -m pip --version >/dev/null 2>&1; then
      say "Using the $VENV that is there"
      mkdir $STAMPS
      return
    fi
    die "$VENV is no Python $VERSION environment with pip: move it away or delete it (rm -r $VENV), then run this again."
  fi
  # `venv --clear` would empty what a link points to: another checkout's environment.
  [ ! -L $VENV ] || die "$VENV is a link to $(readlink -f $VENV), which was made for another folder: delete the link (rm $VENV), then run this again."
  if is_done venv || [ -s $LOCK ]; then why=' anew: the one there is unfinished, or its Python is gone'
  elif [ -d $STAMPS ]; then why=' anew: the one there was made for another folder'
  fi
  say "Making $VENV$why, with $("$python" --version) ($python)"
  echo "unfinished: $VENV is being made" >$LOCK
  "$python" -m venv --clear $VENV
  mkdir $STAMPS
  : >$LOCK
}

# pip takes a package for installed as soon as its metadata is there, which is before its last files
# are. Complete is one whose RECORD lists the INSTALLER that pip writes last.
repair_packages() {
  "$PY" - <<'PYTHON'
import pathlib, shutil, sysconfig

site = pathlib.Path(sysconfig.get_path('purelib'))
for info in site.glob('*.dist-info'):
    record = info / 'RECORD'
    if not record.is_file() or f'{info.name}/INSTALLER' not in record.read_text(encoding='utf-8'):
        print(f'{info.name} was not completely installed: again')
        shutil.rmtree(info)
for leftover in site.glob('~*'):  # of an interrupted removal
    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
PYTHON
}

# A thread, since no timeout of a socket bounds the name look-up before it.
answers() {
  "$PY" - "$1" >/dev/null 2>&1 <<'PYTHON'
import os, ssl, sys, threading, urllib.request

def probe():
    ca_file = os.environ.get('PIP_CERT') or os.environ.get('REQUESTS_CA_BUNDLE') or None
    context = ssl.create_default_context(cafile=ca_file)
    with urllib.request.urlopen(sys.argv[1], timeout=4, context=context):
        os._exit(0)

thread = threading.Thread(target=probe, daemon=True)
thread.start()
thread.join(5)
os._exit(1)
PYTHON
}

wheel_in() {
  local file
  for file in "$1/${MMCV//-/_}"-*.whl; do
    if [ -f "$file" ]; then
      echo "$file"
      break
    fi
  done
}

# Where a source build is kept, so that a new environment does not cost it again. Not in pip's cache, which
# knows nothing of torch.
kept_wheels() {
  local gpu=
  if [ -e /dev/nvidiactl ] || [ "${FORCE_CUDA-}" = 1 ]; then gpu=-gpu; fi
  echo ".whl/torch$(pinned torch)-$(uname -m)$gpu"
}

# The publisher's page of mmcv wheels for the pinned torch. PyPI's torch for Linux on x86-64 is a
# CUDA build, its others are for the CPU.
wheel_page() {
  local torch cuda=cpu
  torch=$(pinned torch | cut -d. -f1,2).0
  case $MMCV-$(uname -s)-$(uname -m) in
    mmcv-Linux-x86_64) cuda=cu121 ;;
    onedl-mmcv-Linux-x86_64) cuda=cu130 ;;
  esac
  case $MMCV in
    mmcv) echo "https://download.openmmlab.com/mmcv/dist/$cuda/torch$torch/index.html" ;;
    onedl-mmcv) echo "https://mmwheels.onedl.ai/$cuda-torch${torch//./}/simple/onedl-mmcv/index.html" ;;
  esac
}

find_mmcv_wheel() {
  local index
  rm -rf $STAMPS/wheel
  index=${MMCV_INDEX:-$(wheel_page)}
  say "Looking for a prebuilt $MMCV $(pinned $MMCV)"
  local links=()
  if answers "$index"; then
    links=(--find-links "$index")
  else
    echo "$index does not answer: looking elsewhere only."
  fi
  if "$PY" -m pip download -q --no-deps --only-binary=:all: --dest $STAMPS/wheel \
    ${links[@]+"${links[@]}"} "$MMCV==$(pinned $MMCV)" >/dev/null 2>&1; then
    echo "Found $(basename "$(wheel_in $STAMPS/wheel)"): mmcv takes seconds."
  elif [ -n "$(wheel_in "$(kept_wheels)")" ]; then
    echo "Found $(wheel_in "$(kept_wheels)"), built here before: mmcv takes seconds."
  else
    check_compilers
    echo 'None for this Python and torch: mmcv will be built from source, about 10 minutes on 2 cores.'
  fi
}

install_torch() {
  say "Installing torch $(pinned torch) (a download of about 2.5 GB, unless pip has it already)"
  pip_install -r $REQ/build.txt
}

jobs() {
  local cores memory=
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  # One of these compilations takes up to 2 GB.
  [ ! -r /proc/meminfo ] || memory=$(awk '/^MemAvailable/ { print int($2 / 2097152) }' /proc/meminfo)
  if [ -n "$memory" ] && [ "$memory" -lt "$cores" ]; then cores=$memory; fi
  echo $((cores > 1 ? cores : 1))
}

build_mmcv() {
  local kept kind
  kept=$(kept_wheels)
  check_compilers
  # torch compiles file by file, on one core, unless it finds ninja.
  command -v ninja >/dev/null || pip_install -q ninja
  kind=$("$PY" - <<'PYTHON'
import os, re, subprocess
import torch
from torch.utils.cpp_extension import CUDA_HOME

if os.environ.get('FORCE_CUDA') == '1':
    print('cuda')
elif not torch.cuda.is_available():
    print('cpu')
else:
    # torch refuses a compiler of another major version than its own.
    try:
        text = subprocess.check_output([f'{CUDA_HOME}/bin/nvcc', '--version'], text=True)
        nvcc = re.search(r'release (\d+)', text).group(1)
    except (OSError, AttributeError, subprocess.CalledProcessError):
        nvcc = None
    print('cuda' if nvcc == torch.version.cuda.split('.')[0] else 'no-nvcc')
PYTHON
  )
  export MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(jobs)}
  say "Building $MMCV $(pinned $MMCV) from source with $MAX_JOBS processes: about 10 minutes with 2, and pip prints little meanwhile"
  case $kind in
    cuda) echo 'With CUDA operators, which take longer.' ;;
    cpu) echo 'With CPU operators only, since torch sees no GPU here.' ;;
    no-nvcc)
      echo "With CPU operators only, since no nvcc of torch's CUDA version was found: classification and"
      echo 'distillation use the GPU all the same, but detection on it needs a prebuilt wheel.'
      export CUDA_VISIBLE_DEVICES=
      ;;
  esac
  rm -rf $STAMPS/wheel $STAMPS/source
  PATH=$PWD/$VENV/bin:$PATH
  # Not in pip's isolated build: without torch, mmcv is built without operators.
  "$PY" -m pip download -q --no-cache-dir --no-deps --no-build-isolation --no-binary "$MMCV" \
    --dest $STAMPS/source "$MMCV==$(pinned $MMCV)"
  tar -xzf $STAMPS/source/*.tar.gz -C $STAMPS/source --strip-components=1
  # Torch's headers need C++20 since 2.14, and mmcv 2.3.6 passes C++17.
  if [ $MMCV = onedl-mmcv ]; then sed -i 's/-std=c++17/-std=c++20/' $STAMPS/source/setup.py; fi
  "$PY" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir $STAMPS/wheel \
    ./$STAMPS/source ||
    die "mmcv did not compile; the first error above says why. If it ran out of memory: MAX_JOBS=1 $MAKE_IT"
  rm -rf $STAMPS/source
  mkdir -p "$kept"
  mv "$(wheel_in $STAMPS/wheel)" "$kept/"
}

# A build without operators imports, too.
operators_work() {
  "$PY" -W ignore - <<'PYTHON'
import torch
from mmcv.ops import nms

boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
assert nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)[1].tolist() == [1, 2]
PYTHON
}

install_mmcv_wheel() {
  # By force: pip keeps an installed mmcv of the same version, though another torch compiled it. By
  # folder, cut off from all else: given the file, `pip freeze` would show a path in place of the version.
  PIP_CONFIG_FILE=/dev/null "$PY" -m pip --isolated install -q --force-reinstall --no-deps --no-index \
    --find-links "$(dirname "$1")" "$MMCV==$(pinned $MMCV)"
  pip_install -q "$MMCV==$(pinned $MMCV)"
  "$PY" -c 'import cv2' ||
    die 'opencv does not load (the error is above); if a lib*.so is missing: sudo apt install libgl1 libglib2.0-0'
}

install_mmcv() {
  local wheel kept
  kept=$(kept_wheels)
  wheel=$(wheel_in $STAMPS/wheel)
  [ -n "$wheel" ] || wheel=$(wheel_in "$kept")
  if [ -n "$wheel" ]; then
    say "Installing $wheel"
    install_mmcv_wheel "$wheel"
    if operators_work; then return; fi
    say "$wheel does not work with this torch (see above)"
    rm -f "$kept"/*.whl
  fi
  build_mmcv
  install_mmcv_wheel "$(wheel_in "$kept")"
  operators_work || die 'the mmcv that was just built does not work; the error is above.'
}

install_openmmlab() {
  say 'Installing mmengine, mmpretrain, mmdet and mmsegmentation'
  pip_install -q -r $OPENMMLAB
}

install_others() {
  say 'Installing what this package and its tests need'
  pip_install -q -r $REQ/runtime.txt -r $REQ/optional.txt -r $REQ/tests.txt
}

install_mim() {
  say 'Installing mim into a folder of its own'
  rm -rf $VENV/mim
  "$PY" -m pip install -q --no-deps --target $VENV/mim -r $REQ/mim.txt
}

install_package() {
  say 'Installing this package, editable'
  # setuptools is there already; an isolated build would download it again.
  pip_install -q --no-build-isolation --no-deps -e .
}

check_env() {
  say 'Checking that everything imports'
  "$PY" -m pip check || die "the packages in $VENV do not fit together (see above): rm -r $VENV, then run this again."
  operators_work || die "mmcv's operators do not work (see above): rm -r $VENV, then run this again."
  "$PY" -W ignore -c 'import mmdet, mmpretrain, mmseg.apis, sklearn, tensorboard, timm, torchvision' ||
    die "an import fails (see above): rm -r $VENV, then run this again."
}

# --- all together -------------------------------------------------------------------------------

if all_done; then exit 0; fi

command -v "${CC:-gcc}" >/dev/null ||
  say 'There is no gcc here. That is enough only where pip finds an mmcv wheel; else: sudo apt install build-essential'

# The pip of a killed set-up may still run: it holds the lock that it inherited from here.
exec 9>>$LOCK
if command -v flock >/dev/null && ! flock -n 9; then
  say "Waiting for another set-up in this folder, or what is left of one"
  flock 9
fi
if all_done; then exit 0; fi

if ! venv_is_whole; then
  find_python
  check_disk
  make_venv
  stamp venv
elif ! is_done torch; then
  check_disk
fi

if [ -f $STAMPS/unfinished ]; then repair_packages; fi
: >$STAMPS/unfinished

is_done mmcv || find_mmcv_wheel
for step in torch mmcv openmmlab others mim package; do
  if ! is_done $step; then
    install_$step
    stamp $step
  fi
done
check_env
stamp check
rm -f $STAMPS/unfinished
rm -rf $STAMPS/wheel
say "The environment is ready: $VENV/bin/python, or: source $VENV/bin/activate"
