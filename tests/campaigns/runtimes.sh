#!/usr/bin/env bash
# Runs the notebook, unedited, and the tests with the package versions of Colab and of Kaggle; both
# are imitated by tests/campaigns/imitate.py. Needs Python 3.13 and 3.12, git, and the network for pip.
# RUNTIMES names the folder of the versions, files of pip constraints.
# Ends with one line a runtime, and with status 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

runtimes=${RUNTIMES:-../shared/runtimes}
# The smaller build without CUDA serves where there is no NVIDIA card.
tensorflow=tensorflow-cpu
command -v nvidia-smi >/dev/null && tensorflow=tensorflow

export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
lines=()
status=0

find_python() { # version; a pyenv shim may be on PATH that runs nothing
    local python
    for python in "python$1" ~/.pyenv/versions/"$1".*/bin/python; do
        "$python" -c "" 2>/dev/null && echo "$python" && return
    done
    echo "Python $1 was not found." >&2
    return 1
}

# The working tree as a repository, which the notebook clones in the place of the published one.
snapshot() { # folder
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard |
        tar --create --null --files-from - --ignore-failed-read 2>/dev/null | tar --extract -C "$1"
    git -C "$1" init --quiet --initial-branch=main && git -C "$1" add --all &&
        git -C "$1" -c user.name=tests -c user.email=tests@localhost commit --quiet -m snapshot
}

install() { # environment, Python version, constraints
    [[ -f $3 ]] || { echo "$3 is missing: name its folder by RUNTIMES." >&2; return 1; }
    [[ $1/ready -nt requirements.txt && $1/ready -nt requirements-dev.txt && $1/ready -nt $3 ]] &&
        return
    local python
    python=$(find_python "$2") || return
    "$python" -m venv "$1" || return
    sed "s/^tensorflow>/$tensorflow>/" requirements.txt > "$1/requirements.txt"
    sed "s/^tensorflow==/$tensorflow==/" "$3" > "$1/constraints.txt"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r "$1/requirements.txt" -r requirements-dev.txt -c "$1/constraints.txt" && touch "$1/ready"
}

run_notebook() { # platform, environment
    local before
    before=$("$2/bin/python" -m pip freeze)
    "$2/bin/python" tests/campaigns/imitate.py "$1" "$work/$1" || return
    "$2/bin/python" tests/campaigns/imitate.py "$1" "$work/$1-setup" setup || return
    if [[ $1 == kaggle ]]; then # a new version, with the output of the first as its input
        "$2/bin/python" tests/campaigns/imitate.py "$1" "$work/$1-attached" "$work/$1" || return
    fi
    [[ $("$2/bin/python" -m pip freeze) == "$before" ]] || { echo "The notebook changed versions." >&2; return 1; }
}

run_tests() { # platform, environment
    "$2/bin/python" -m pytest -m "not slow" -n auto -p no:cacheprovider 2>&1 | tee "$work/$1.log" >&2
}

timed() { # name, command: runs it and says how it ended
    local start=$SECONDS outcome=ok
    "${@:2}" >&2 || outcome=FAILED
    echo "$1 $outcome ($((SECONDS - start)) s)"
    [[ $outcome == ok ]]
}

check() { # platform, Python version, constraints
    local venv=.venv-$1 line
    echo "== $1" >&2
    line=$(timed installation install "$venv" "$2" "$3") || { echo "$1: $line"; return 1; }
    line=$("$venv/bin/python" -c "
from importlib.metadata import version
from platform import python_version
names = ('$tensorflow', 'keras', 'numpy', 'pandas', 'ipython', 'ipywidgets', 'kaggle')
print(f'Python {python_version()}', *(f'{name} {version(name)}' for name in names), sep=', ')")
    local failed=0
    line+="; $(timed notebook run_notebook "$1" "$venv")" || failed=1
    line+="; $(timed tests run_tests "$1" "$venv")" || failed=1
    line+=": $(grep -E "[0-9] passed" "$work/$1.log" | tail -n 1)"
    echo "$1: $line"
    return $failed
}

snapshot "$work/repository" || exit
export GIT_CONFIG_COUNT=1 GIT_CONFIG_VALUE_0=https://github.com/someone/captions  # as imitate.py says
export GIT_CONFIG_KEY_0=url.file://$work/repository.insteadOf

line=$(check colab 3.13 "$runtimes/colab-2026-08-py313.txt") || status=1
lines+=("$line")
line=$(check kaggle 3.12 "$runtimes/kaggle-2026-05-py312.txt") || status=1
lines+=("$line")
printf "%s\n" "${lines[@]}"
exit $status
