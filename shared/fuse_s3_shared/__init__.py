"""What the privileged helper and the unprivileged worker have in common.

Four small modules: the messages between the two (`handoff`), passing one descriptor with one
packet (`fdpass`), splitting a mount option string (`mountopts`), and the limits that both sides
enforce (`limits`). The standard library alone; everything here runs with root's powers too.
"""
