"""The worker: everything that touches S3, without any privilege."""
