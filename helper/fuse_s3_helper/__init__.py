"""The privileged side of a mount: it opens /dev/fuse, starts a worker, mounts, and leaves.

One step a module, in the order of `main`. The standard library alone, installed as one zipapp
that runs isolated (`python3 -IS`), so that nothing outside of it can change what it does.
"""
