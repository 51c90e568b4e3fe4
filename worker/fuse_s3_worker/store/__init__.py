"""What S3 means: requests, signatures, documents, retries, and errors, behind `ObjectStore`."""
