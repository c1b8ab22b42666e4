"""What tests share: small datasets, runs, shapes and servers. Nothing here is a test."""
