#!/usr/bin/env bash
# Build the wheel, install it into an environment of its own, and train and play with it outside the clone.
# The environment holds nothing but the wheel; torch and the other dependencies are read, through one .pth line, from
# the environment of the python that is given, so that nothing is downloaded.
set -euo pipefail
python=$(realpath -s "${1:-.venv/bin/python}")
clone=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# From a copy: setuptools would leave build/ and an egg-info in the clone.
git -C "$clone" ls-files -z --cached --others --exclude-standard tokendream pyproject.toml README.md LICENSE |
  (cd "$clone" && xargs -0 cp --parents -t "$work")
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" "$work"
"$python" -m venv --without-pip "$work/env"
site=$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -m pip --python "$work/env/bin/python" install --quiet --no-deps --no-index "$work"/dist/*.whl
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/dependencies.pth"
mkdir "$work/elsewhere"
cd "$work/elsewhere"
unset PYTHONPATH
"$work/env/bin/python" -c 'import sys, tokendream; assert tokendream.__file__.startswith(sys.prefix), tokendream.__file__'
"$work/env/bin/tokendream" --version
"$work/env/bin/tokendream" train tiny --epochs 1 --evaluation.episodes 2 --run-dir run > train.log 2>&1 ||
  { cat train.log; exit 1; }
test -s run/report.html
"$work/env/bin/python" -c 'import tokendream; print("a game:", tokendream.load("run").play_game(seed=0)[0])'
timeout 60 "$work/env/bin/tokendream" play --demo --port 0 > play.log 2>&1 &
address=
until [ -n "$address" ]; do
  kill -0 $! || { cat play.log; exit 1; }
  sleep 1
  address=$(grep -om1 'http://[^ ]*' play.log || true)
done
"$work/env/bin/python" -c 'import sys, urllib.request as u; assert b"tokendream play" in u.urlopen(sys.argv[1]).read()' "$address"
kill $!
"$work/env/bin/tokendream" dream --demo --at 20 --length 6 --out demo.gif
echo "$(basename "$work"/dist/*.whl): $(du -k "$work"/dist/*.whl | cut -f1) KiB, installed by itself, trained, played and dreamed outside the clone"
