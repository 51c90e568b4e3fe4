"""What a worker and the `fuse-s3` command agree on: where sockets are, and what is said there."""
