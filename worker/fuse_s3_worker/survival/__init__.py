"""What makes a mount outlive its worker.

    supervisor   who keeps what is stored: systemd or the keeper, spoken to in one way
    keeper       a process for machines, and for users, without systemd
    records      the state on its way through memory: framed, checked, in generations
    state        what is recorded of a mount, and what a successor reads out of it

A worker that starts with a device among its descriptors is a successor: it talks to no helper.
"""
