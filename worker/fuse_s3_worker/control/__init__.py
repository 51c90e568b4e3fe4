"""The control socket: who may come in (`door`), what is answered (`service`, `report`).

A mount that nobody asks anything has a socket that listens, and nothing else: gRPC, which takes
17 MB, is imported when the first byte of a client arrives.
"""
