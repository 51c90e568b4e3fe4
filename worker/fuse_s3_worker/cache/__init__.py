"""What is remembered of the bucket, and for how long."""
