"""The control socket: who may come in (`door`), what is answered (`service`, `report`).

A mount that nobody asks anything has a socket that listens, and nothing else: gRPC, which takes
three times the memory of everything else that it would share a process with, is imported when the
first byte of a client arrives.
"""
