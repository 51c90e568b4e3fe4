"""The `fuse-s3` command."""
