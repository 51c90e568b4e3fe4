"""The benchmark: contestants that mount the same bucket, workloads, and how they are measured."""
