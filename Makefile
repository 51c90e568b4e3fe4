# make demo       see it work: a server, a bucket, a mount, a comparison
# make test       everything that can be tested on this machine
# make test-long  what takes hours, too
# make fuzz       bytes that a fuzzer thinks of, against the handoff; MINUTES=10
# make test-vm    mounts and attacks on a machine that boots with SELinux enforcing
# make install    into the system; PREFIX, SBINDIR and DESTDIR are honoured
# make uninstall
# make bench      beside s3fs and rclone, on the same server
# make bench-compare A=old.json B=new.json      what changed; without names, the last two
# make lint       format, lint, types, import rules, the budget of privileged code
# make docs       write what is generated: the options, the manual pages

PREFIX ?= /usr
SBINDIR ?= /sbin
DESTDIR ?=
PYTHON ?= /usr/bin/python3
export PYTHON

VENV := build/venv/bin
PLACES = --prefix "$(PREFIX)" --sbindir "$(SBINDIR)" --destdir "$(DESTDIR)"

.PHONY: demo test test-long fuzz test-vm install uninstall bench bench-compare lint docs clean

demo:
	@tools/demo

test:
	@tools/run_tests $(ARGS)

test-long:
	@tools/run_tests --long $(ARGS)

fuzz:
	@tools/fuzz $(ARGS)

test-vm:
	@tools/test_vm $(ARGS)

install:
	@tools/bootstrap
	@$(VENV)/python tools/install.py install $(PLACES)

uninstall:
	@$(PYTHON) tools/install.py uninstall $(PLACES)

bench:
	@tools/bench $(ARGS)

bench-compare:
	@PYTHONPATH=tests $(PYTHON) -m bench.compare $(A) $(B)

lint:
	@tools/bootstrap servers test
	@tools/lint

docs:
	@tools/bootstrap
	@$(VENV)/python tools/write_docs.py

clean:
	rm -rf build dist
