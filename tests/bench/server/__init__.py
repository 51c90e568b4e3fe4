"""An S3 server that costs as little as possible: nginx for the bytes, Python for the names."""
