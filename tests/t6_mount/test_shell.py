"""What shell scripts do to files, one line after the other; with attributes kept, and without."""

import subprocess

import pytest

from support.mounts import Mount, clean_environment
from support.s3 import Bucket

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

# Scripts by name. Each runs in an empty directory with `set -e`, and fails by itself.
EVERYWHERE = {
    "append": """
echo a >f; echo b >>f; echo c | tee -a f >/dev/null
[ "$(cat f)" = "$(printf 'a\\nb\\nc')" ]
""",
    "truncate": """
seq 1000 >f; truncate -s 10 f; [ $(stat -c %s f) = 10 ]; truncate -s 100 f
[ $(stat -c %s f) = 100 ]; [ "$(head -c 4 f)" = "$(printf '1\\n2')" ]; : >f; [ ! -s f ]
""",
    "truncate a large one": """
truncate -s 12M f; printf end >>f; [ $(stat -c %s f) = 12582915 ]
[ "$(tail -c 3 f)" = end ]; truncate -s 6M f; [ $(stat -c %s f) = 6291456 ]
""",
    "redirects": """
{ echo a; echo b; } >f; (echo c; echo d) >>f; exec 3<>f; read -r x <&3; echo X >&3
exec 3>&-; [ "$x" = a ]; [ "$(sed -n 2p f)" = X ]
""",
    "move a file": """
echo 1 >a; mv a b; [ ! -e a ]; echo 2 >c; mv c b; [ $(cat b) = 2 ]; echo 3 >d; mv -n d b
[ $(cat b) = 2 ]; [ -e d ]
""",
    "move a tree": """
mkdir -p t/u/v; seq 100 >t/u/v/f; echo x >t/g; mv t s; [ ! -e t ]
cmp s/u/v/f <(seq 100); mkdir into; mv s into; [ -f into/s/g ]; mv into/s/u/v .
cmp v/f <(seq 100)
""",
    "copy a tree": """
mkdir -p t/u; seq 10 >t/u/f; : >t/empty; cp -r t c; diff -r t c; rm -r t c
[ -z "$(ls)" ]
""",
    "unlink while open": """
echo data >f; exec 3<f; rm f; [ ! -e f ]; [ "$(cat <&3)" = data ]; exec 3<&-
""",
    "unlink while written": """
exec 3>f; echo a >&3; rm f; echo b >&3; exec 3>&-; [ ! -e f ]
""",
    "replace while open": """
echo old >f; exec 3<f; echo new >g; mv g f; [ "$(cat <&3)" = old ]; [ $(cat f) = new ]
exec 3<&-
""",
    "sed -i": """
seq 100 >f; sed -i s/50/fifty/ f; grep -q fifty f; [ $(wc -l <f) = 100 ]
sed -i.bak 1d f; [ $(wc -l <f) = 99 ]; [ $(wc -l <f.bak) = 100 ]
""",
    "concurrent writers": """
for i in 1 2 3 4; do (for j in $(seq 20); do echo $i-$j >>log; done) & done; wait
[ $(wc -l <log) = 80 ]; [ $(sort -u log | wc -l) = 80 ]
""",
    "concurrent files": """
for i in $(seq 20); do (seq $i >f$i; mv f$i g$i) & done; wait; for i in $(seq 20)
do [ $(wc -l <g$i) = $i ]; done
""",
    "read what is written": """
exec 3>f; echo one >&3; [ $(cat f) = one ]; echo two >&3; [ $(wc -l <f) = 2 ]; exec 3>&-
""",
    "here document and heredoc in place": """
cat >f <<E
line
E
{ rm f
tr a-z A-Z >f; } <f; [ $(cat f) = LINE ]
""",
    "lock": """
exec 3>l; flock -n 3; fails flock -n l true
""",
    "rmdir": """
mkdir d; : >d/f; fails rmdir d; rm d/f; rmdir d; [ ! -e d ]; mkdir -p a/b/c
rmdir -p a/b/c; [ ! -e a ]
""",
    "find and xargs": """
mkdir d; for i in $(seq 30); do echo $i >d/$i; done; [ $(find d -type f | wc -l) = 30 ]
find d -name '1*' -delete; [ $(find d -type f | wc -l) = 19 ]; ls d | (cd d; xargs rm)
[ -z "$(ls d)" ]
""",
    "noclobber": """
set -C; echo 1 >f; fails bash -c 'set -C; echo 2 >f'; [ $(cat f) = 1 ]; echo 3 >|f
[ $(cat f) = 3 ]
""",
    "mktemp": """
t=$(mktemp -p .); echo x >$t; d=$(mktemp -d -p .); mv $t $d/; [ $(cat $d/*) = x ]
""",
    "pipes through files": """
seq 10000 | sort -R >f; sort -n -o f f; cmp f <(seq 10000)
""",
    "fallocate": """
fallocate -l 100000 f; [ $(stat -c %s f) = 100000 ]; fallocate -p -o 0 -l 4096 f
[ $(stat -c %s f) = 100000 ]
""",
    "chmod and chown and touch do not fail": """
echo 1 >f; chmod 600 f; chown 1000:1000 f; touch -d 2001-01-01 f; [ $(cat f) = 1 ]
""",
}

WITH_ATTRIBUTES = {
    "chmod": """
echo 1 >f; chmod 4711 f; [ $(stat -c %a f) = 4711 ]; mkdir d; chmod 1770 d
[ $(stat -c %a d) = 1770 ]; chmod u-s,g+w f; [ $(stat -c %a f) = 731 ]
""",
    "umask": """
umask 077; echo 1 >f; mkdir d; [ $(stat -c %a f) = 600 ]; [ $(stat -c %a d) = 700 ]
""",
    "chown": """
echo 1 >f; chown 1234:4321 f; [ $(stat -c %u:%g f) = 1234:4321 ]; chgrp 5 f
[ $(stat -c %u:%g f) = 1234:5 ]
""",
    "symlink": """
echo 1 >f; ln -s f l; [ $(readlink l) = f ]; [ $(cat l) = 1 ]; ln -sfn /nowhere l
[ $(readlink l) = /nowhere ]; [ ! -e l ]; mv l m; [ -L m ]; rm m; [ -e f ]; mkdir d
ln -s d e; : >e/x; [ -f d/x ]
""",
    "hard link": """
echo 1 >f; fails ln f g; [ ! -e g ]
""",
    "fifo": """
mkfifo p; (echo through >p) & [ $(cat p) = through ]; wait; [ -p p ]; rm p
""",
    "cp -p": """
echo 1 >f; chmod 640 f; chown 7:8 f; touch -d '2001-02-03 04:05:06.789' f; cp -p f g
[ "$(stat -c '%a %u %g %y' f)" = "$(stat -c '%a %u %g %y' g)" ]; [ ! g -nt f ]
[ ! g -ot f ]
""",
    "cp -a": """
mkdir -p t/u; echo 1 >t/u/f; ln -s f t/u/l; chmod 751 t/u; chown 3 t/u/f
touch -d 2001-01-01 t/u/f t/u; cp -a t c; [ "$(cd t
find . -type f -printf '%p %m %u %T@')" = "$(cd c
find . -type f -printf '%p %m %u %T@')" ]; [ -L c/u/l ]
""",
    "touch": """
touch -d 1999-12-31T23:59:59.123456789Z f
[ "$(TZ=UTC stat -c %y f)" = '1999-12-31 23:59:59.123456789 +0000' ]; touch f
[ $(stat -c %Y f) -gt 1000000000 ]; touch -r f g; [ ! f -nt g ]
""",
    "time of a move": """
echo 1 >f; touch -d 2001-01-01 f; chmod 604 f; mv f g
[ $(stat -c %Y g) = $(date -d 2001-01-01 +%s) ]; [ $(stat -c %a g) = 604 ]
""",
    "install": """
echo 1 >f; install -m 0751 -o 11 -g 12 f g; [ $(stat -c %a:%u:%g g) = 751:11:12 ]
""",
    "test -x": """
printf '#!/bin/sh\\necho ran\\n' >s; chmod 644 s; [ ! -x s ]; chmod +x s; [ $(./s) = ran ]
""",
    "sed -i keeps the mode": """
echo 1 >f; chmod 640 f; chown 5:6 f; sed -i s/1/2/ f
[ $(stat -c %a:%u:%g f) = 640:5:6 ]
""",
    "append clears nothing but setuid": """
echo 1 >f; chmod 640 f; chown 5:6 f; echo 2 >>f; [ $(stat -c %a:%u:%g f) = 640:5:6 ]
""",
    "sticky directory": """
mkdir d; chmod 1777 d; echo 1 >d/f; chown 0 d/f
fails setpriv --reuid 1000 --clear-groups rm -f d/f; [ -e d/f ]
""",
}

# A program of its own, since shells have none for it that is everywhere.
XATTRS = """
import os
open("f", "w").close()
os.setxattr("f", "user.a", b"1"); os.setxattr("f", "user.b", b"\\0" * 100)
assert sorted(n for n in os.listxattr("f") if n.startswith("user.")) == ["user.a", "user.b"]
os.rename("f", "g")
assert os.getxattr("g", "user.b") == b"\\0" * 100
os.removexattr("g", "user.a")
assert os.listxattr("g").count("user.a") == 0
"""

WITHOUT_ATTRIBUTES = {
    "no symlink": """
fails ln -s x l; [ ! -L l ]
""",
    "no fifo": """
fails mkfifo p; [ ! -e p ]
""",
}

# Under `set -e` a failing `! command` goes unnoticed.
PRELUDE = """
set -eu
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
fails() { if "$@" 2>/dev/null; then echo "did not fail: $*" >&2; exit 9; fi; }
"""


def run_all(mnt: Mount, scripts: dict[str, str]) -> list[str]:
    """Run scripts, each in a directory of its own; return the names of those that fail, and why."""
    failed = []
    for name, script in scripts.items():
        where = mnt / name.replace(" ", "-")
        where.mkdir()
        done = subprocess.run(
            ["bash", "-c", f"{PRELUDE}{script}"],
            check=False,
            capture_output=True,
            text=True,
            cwd=where,
            stdin=subprocess.DEVNULL,
            timeout=60,
            env=clean_environment() | {"BASH_ENV": ""},
        )
        if done.returncode or done.stderr:
            failed.append(f"{name}: status {done.returncode} {done.stderr}")
    return failed


def test_with_attributes(bucket: Bucket) -> None:
    with Mount(bucket, "posix") as mnt:
        xattrs = f"python3 -c '{XATTRS}'"
        assert run_all(mnt, EVERYWHERE) == []
        assert run_all(mnt, WITH_ATTRIBUTES) == []
        assert run_all(mnt, {"xattrs": xattrs}) == []
    with Mount(bucket, "posix", "metadata_ttl=600") as fresh:
        assert run_all(fresh, {"again": "[ $(stat -c %a ../chmod/d) = 1770 ]"}) == []


def test_without(bucket: Bucket) -> None:
    """[S67] Symbolic links, hard links and special files cannot be made: EPERM."""
    with Mount(bucket) as mnt:
        assert run_all(mnt, EVERYWHERE | WITHOUT_ATTRIBUTES) == []
