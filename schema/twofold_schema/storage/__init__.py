"""Object storage behind a port: S3, or a directory on one machine."""
