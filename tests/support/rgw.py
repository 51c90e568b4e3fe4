"""A Ceph RADOS Gateway to throw away: one monitor, one OSD that keeps everything in memory.

A real S3 server that others run in production: it verifies signatures and clocks, has users, and
answers from several threads. The daemons are children of this process, in the foreground and
without a manager, on ports that were free; their state is a temporary directory. Nobody stops
them gently, since nothing of theirs is wanted again.
"""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from support.process import ROOT, Child, ChildEndedError, free_port, service_user
from support.s3 import Keys, Store, wait_for_s3
from support.tls import Certificate, make_certificate

__all__ = ["PACKAGES", "Rgw", "RgwUnavailableError", "install_packages"]

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "openssl")

_KEYS = Keys("testkey", "testsecret")
_OTHER = Keys("otherkey", "othersecret")
_QUIRKS = frozenset({"no-region", "no-tags-on-parts"})

_ATTEMPTS = 3  # another program may have taken a port
_OSD_PORTS = 30  # it takes the first four that are free, from the first on

_Section = Mapping[str, object]


class RgwUnavailableError(Exception):
    """It cannot be had on this machine; the message says why."""


def install_packages() -> None:
    """Install what is missing, where that is possible.

    Raises:
        RgwUnavailableError: it is not.
    """
    if os.geteuid() != 0 and shutil.which("radosgw") is None:
        raise RgwUnavailableError("radosgw is not installed, and only root can install it")
    done = subprocess.run(
        [ROOT / "tools/need", *PACKAGES], check=False, capture_output=True, text=True
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["apt failed"]
        raise RgwUnavailableError(f"Ceph's packages cannot be installed: {last[0]}")


class Rgw:
    """The cluster; a context manager that starts and stops it.

    Attributes:
        store: over plain HTTP, with the key of the user `tester` and the other key of `other`.
        tls: the same over HTTPS, with the certificate to trust.
    """

    store: Store
    tls: Store

    def __init__(self, *, memory: int = 4 << 30) -> None:
        self._memory = memory
        self._user = service_user("ceph", "nobody")
        self._children: list[Child] = []
        self._directory = Path()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            RgwUnavailableError: it does not come up.
        """
        install_packages()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start()
                break
            except (ChildEndedError, subprocess.TimeoutExpired, TimeoutError) as error:
                self.stop()
                if attempt == _ATTEMPTS:
                    raise RgwUnavailableError(f"Ceph does not come up: {error}") from error
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End it at once; the objects go with it."""
        for child in reversed(self._children):
            child.stop(patience=0)
        self._children.clear()
        if self._directory.name:
            shutil.rmtree(self._directory, ignore_errors=True)

    # -- the steps ------------------------------------------------------------------------------

    def _start(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fuse-s3-rgw-"))
        monitor, plain, tls, first_osd = (free_port() for _ in range(4))
        certificate = make_certificate(self._directory)
        for name in ("mon/a", "osd/0", "rgw", "run", "log"):
            (self._directory / name).mkdir(parents=True)
        configuration = self._configuration(monitor, plain, tls, first_osd, certificate)
        (self._directory / "ceph.conf").write_text(configuration)
        if self._user is not None:
            for path in (self._directory, *self._directory.rglob("*")):
                shutil.chown(path, self._user)
        self._start_monitor(monitor)
        self._start_osd()
        # The first of these also makes the pools of the gateway, and waits for the OSD.
        self._make_user("tester", _KEYS)
        self._make_user("other", _OTHER)
        gateway = self._daemon("radosgw", "-n", "client.rgw")
        self.store = Store("rgw", f"http://127.0.0.1:{plain}", _KEYS, _OTHER, _QUIRKS)
        self.tls = self.store.at(f"https://localhost:{tls}", certificate.certificate)
        wait_for_s3(self.store, gateway)

    def _start_monitor(self, port: int) -> None:
        keyring, map_file = str(self._directory / "keyring"), str(self._directory / "monmap")
        address = f"[v2:127.0.0.1:{port}/0]"
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.")
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, map_file)
        files = ("--monmap", map_file, "--keyring", keyring)
        self._run("ceph-mon", "--mkfs", "-i", "a", *files)
        self._daemon("ceph-mon", "-i", "a")

    def _start_osd(self) -> None:
        unique = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "30", "osd", "new", unique, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", unique)
        self._daemon("ceph-osd", "-i", "0")

    def _make_user(self, name: str, keys: Keys) -> None:
        options = {"uid": name, "display-name": name, "access-key": keys.access}
        options |= {"secret": keys.secret, "max-buckets": "100000"}
        words = [f"--{option}={value}" for option, value in options.items()]
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *words)

    def _daemon(self, program: str, *arguments: str) -> Child:
        command = [program, "-f", "-c", str(self._directory / "ceph.conf"), *arguments]
        log = self._directory / "log" / f"{program}.out"
        self._children.append(Child(command, log, user=self._user, environment=self._environment))
        return self._children[-1]

    def _run(self, program: str, *arguments: str) -> None:
        where = ["-c", str(self._directory / "ceph.conf")]
        where = [] if program in {"ceph-authtool", "monmaptool"} else where
        done = subprocess.run(
            [program, *where, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
            env=self._environment,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
        )
        if done.returncode:
            raise ChildEndedError(f"{program}: {done.stderr.strip()[-1000:]}")

    @property
    def _environment(self) -> dict[str, str]:
        # Nothing of the caller's: CEPH_CONF and CEPH_ARGS would lead to another cluster.
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

    @property
    def _fsid(self) -> str:
        # The directory's name is unique on this machine, and so is the cluster's id.
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self._directory.name))

    # -- the configuration ----------------------------------------------------------------------

    def _configuration(
        self, monitor: int, plain: int, tls: int, first_osd: int, certificate: Certificate
    ) -> str:
        home = self._directory
        crc_mode = dict.fromkeys(
            (f"ms {who} mode" for who in ("mon client", "client", "cluster", "service")), "crc"
        )
        no_authentication = dict.fromkeys(
            (f"auth {who} required" for who in ("cluster", "service", "client")), "none"
        )
        frontend = (
            # Without tcp_nodelay every small reply waits 40 ms for an acknowledgement.
            f"beast endpoint=127.0.0.1:{plain} tcp_nodelay=1 ssl_endpoint=127.0.0.1:{tls} "
            f"ssl_certificate={certificate.certificate} ssl_private_key={certificate.key}"
        )
        sections: dict[str, _Section] = {
            "global": {
                "fsid": self._fsid,
                "mon host": f"[v2:127.0.0.1:{monitor}/0]",
                "mon initial members": "a",
                "public addr": "127.0.0.1",
                "cluster addr": "127.0.0.1",
                "ms bind msgr1": "false",
                "ms bind ipv6": "false",
                "ms bind port min": first_osd,
                "ms bind port max": first_osd + _OSD_PORTS,
                # Without authentication there is no key for the secure mode, the default.
                **crc_mode,
                **no_authentication,
                "keyring": home / "keyring",
                "run dir": home / "run",
                "admin socket": home / "run/$name.asok",
                "pid file": home / "run/$name.pid",
                "log file": home / "log/$name.log",
                "crash dir": home / "log",
                **_ONE_OF_EVERYTHING,
            },
            "mon": {
                "mon data": home / "mon/a",
                "mon cluster log file": home / "log/cluster.log",
                "mon data avail crit": 0,
                "paxos propose interval": 0.02,
                "paxos min wait": 0.01,
            },
            "osd": {
                "osd data": home / "osd/$id",
                "osd objectstore": "memstore",
                "memstore device bytes": self._memory,
                "osd op num shards": 2,
                "osd op num threads per shard": 2,
                "osd max object name len": 2048,
            },
            "client.rgw": {
                "rgw data": home / "rgw",
                "rgw frontends": frontend,
                "rgw dns name": "localhost",
                "rgw enable apis": "s3",
                "rgw thread pool size": 64,
                "rgw max put size": 5 << 30,
                **_NOTHING_BESIDE,
                # Deleted objects give their memory back within seconds, not hours.
                "rgw gc obj min wait": 5,
                "rgw gc processor period": 5,
                "rgw gc processor max time": 5,
            },
        }
        return "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
            for name, section in sections.items()
        )


_ONE_OF_EVERYTHING: _Section = {
    "osd pool default size": 1,
    "osd pool default min size": 1,
    "osd pool default pg num": 4,
    "osd pool default pgp num": 4,
    "osd pool default pg autoscale mode": "off",
    "osd crush chooseleaf type": 0,
    "mon allow pool size one": "true",
    "mon max pg per osd": 2000,
}

_NOTHING_BESIDE: _Section = {
    "rgw override bucket index max shards": 1,
    "rgw dynamic resharding": "false",
    "rgw enable quota threads": "false",
    "rgw num rados handles": 1,
    "rgw run sync thread": "false",
    "rgw enable ops log": "false",
    "rgw enable usage log": "false",
}
